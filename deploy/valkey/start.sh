#!/bin/sh
# Start Valkey with the password that is mounted as a file: given on the command line, everyone could read it.
set -eu

umask 077
{
    cat /etc/artcafe/valkey/valkey.conf
    echo "maxmemory ${VALKEY_MAXMEMORY:-384mb}"
    echo "requirepass $(cat /run/secrets/valkey_password)"
} > /run/valkey/valkey.conf
exec valkey-server /run/valkey/valkey.conf
