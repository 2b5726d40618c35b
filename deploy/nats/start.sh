#!/bin/sh
# Start nats-server with the passwords that are mounted as files: it takes them from its environment only.
#
# Alone, unless NATS_PEERS names the servers of a cluster as host:port, with spaces between them. Arguments go to
# nats-server and win over what is said here (but --cluster, which would take the routes' password away).
set -eu

secrets=${NATS_SECRETS_DIR:-/run/secrets}
config=container.conf
for user in auth registry gateway metering; do
    name="NATS_$(echo "$user" | tr '[:lower:]' '[:upper:]')_PASSWORD"
    export "$name=$(cat "$secrets/nats_${user}_password")"
done
if [ -n "${NATS_PEERS:-}" ]; then
    config=cluster.conf
    NATS_ROUTES_PASSWORD=$(cat "$secrets/nats_routes_password")
    routes=""
    for peer in $NATS_PEERS; do
        routes="$routes${routes:+, }\"nats-route://routes:$NATS_ROUTES_PASSWORD@$peer\""
    done
    export NATS_ROUTES_PASSWORD NATS_ROUTES="[$routes]" NATS_CLUSTER="${NATS_CLUSTER:-artcafe}"
    export NATS_CLUSTER_LISTEN="\"${NATS_CLUSTER_LISTEN:-0.0.0.0:6222}\""
    # For `nats-server --signal ldm=...`, by which a server is told to leave.
    set -- --pid /tmp/nats.pid "$@"
fi
export NATS_SERVER_NAME="${NATS_SERVER_NAME:-$(hostname)}"
exec nats-server --config "${NATS_CONFIG_DIR:-/etc/artcafe/nats}/$config" --addr 0.0.0.0 --port 4222 --store_dir /data "$@"
