#!/bin/sh
# Start nginx in a pod. It resolves names by itself, unlike all else: it has to be told which servers to ask, and asks
# for whole names only. Both are what the pod was given for everybody else.
set -eu

servers=
domain=
while read -r key first _; do
    case $key in
        nameserver)
            case $first in *:*) first="[$first]" ;; esac
            servers="$servers$first "
            ;;
        search) domain=${domain:-.$first} ;;
    esac
done < "${RESOLV_CONF:-/etc/resolv.conf}"

# The names stand for the pods themselves, and are asked for again all the time: pods come and go.
upstream() {
    echo "server $1$domain:$2 resolve max_fails=0;"
}

export EDGE_RESOLVER="resolver ${servers}valid=1s ipv6=off;"
EDGE_AUTH_SERVERS=$(upstream auth 8101)
EDGE_REGISTRY_SERVERS=$(upstream registry 8102)
EDGE_METERING_SERVERS=$(upstream metering 8103)
EDGE_GATEWAY_HTTP_SERVERS=$(upstream gateway-http 8104)
EDGE_GATEWAY_WS_SERVERS=$(upstream gateway-ws 8105)
export EDGE_AUTH_SERVERS EDGE_REGISTRY_SERVERS EDGE_METERING_SERVERS EDGE_GATEWAY_HTTP_SERVERS EDGE_GATEWAY_WS_SERVERS

# A container may be started with few open files allowed and the right to allow itself more.
exec /docker-entrypoint.sh nginx -g "daemon off; worker_processes ${EDGE_WORKERS:-2}; worker_rlimit_nofile 65536;"
