#!/bin/sh
# Start nats-server with the passwords that are mounted as files: it takes them from its environment only.
set -eu

for user in auth registry gateway metering; do
    name="NATS_$(echo "$user" | tr '[:lower:]' '[:upper:]')_PASSWORD"
    export "$name=$(cat "/run/secrets/nats_${user}_password")"
done
export NATS_SERVER_NAME="${NATS_SERVER_NAME:-$(hostname)}"
exec nats-server --config /etc/artcafe/nats/container.conf --addr 0.0.0.0 --port 4222 --store_dir /data
