/* The floor of a fan-out: one byte from the first socket means one message, which is a plain send() of the
 * same bytes to every other socket. No protocol, no event loop, no queue: it blocks.
 *
 * bare_send PORT RECEIVERS BYTES, the message's mark on standard input; the publisher connects first. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what) {
    perror(what);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int receivers = atoi(argv[2]);
    size_t size = (size_t)atol(argv[3]);
    char mark[64];
    ssize_t mark_size = read(0, mark, sizeof mark);
    if (receivers < 1 || mark_size < 1 || (size_t)mark_size > size) return 2;

    char *message = malloc(size);
    int *sockets = malloc(sizeof(int) * (size_t)receivers);
    if (!message || !sockets) return fail("malloc");
    memset(message, 'x', size);
    memcpy(message + size - mark_size, mark, (size_t)mark_size);

    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0) return fail("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) return fail("bind");
    if (listen(listener, 1024) < 0) return fail("listen");

    int publisher = accept(listener, 0, 0);
    if (publisher < 0) return fail("accept");
    for (int i = 0; i < receivers; i++) {
        sockets[i] = accept(listener, 0, 0);
        if (sockets[i] < 0) return fail("accept");
        setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    char asked[4096];
    for (;;) {
        ssize_t messages = read(publisher, asked, sizeof asked);
        if (messages <= 0) return 0;
        while (messages-- > 0)
            for (int i = 0; i < receivers; i++)
                if (send(sockets[i], message, size, MSG_NOSIGNAL) < 0) return fail("send");
    }
}
