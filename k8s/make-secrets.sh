#!/bin/sh
# Print the Secrets that the manifests name, from files that are made where they are missing (deploy/make-secrets.sh):
#
#   sh k8s/make-secrets.sh [FOLDER] | kubectl apply -f -
#
# The namespace is in the manifests: apply those first, the pods wait for their secrets.
#
# Keep the folder: the same files make the same Secrets. Where secrets come from a store of yours use
# k8s/examples/external-secrets instead.
set -eu

folder=${1:-${SECRETS_DIR:-secrets}}
here=$(dirname "$0")
sh "$here/../deploy/make-secrets.sh" "$folder" >&2
if [ ! -e "$folder/export-signing.pem" ]; then
    (umask 077 && openssl genpkey -algorithm ed25519 -out "$folder/.export-signing.new")
    chmod 444 "$folder/.export-signing.new"
    mv "$folder/.export-signing.new" "$folder/export-signing.pem"
    echo "made $folder/export-signing.pem" >&2
fi

# One Secret: its name, then the files with the keys under which they are found.
secret() {
    name=$1
    shift
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: artcafe\n' "$name"
    printf '  labels: { app.kubernetes.io/part-of: artcafe }\ntype: Opaque\ndata:\n'
    for pair; do
        printf '  %s: %s\n' "${pair%%=*}" "$(openssl base64 -A -in "$folder/${pair#*=}")"
    done
}

secret nats-passwords auth=nats_auth_password registry=nats_registry_password gateway=nats_gateway_password \
    metering=nats_metering_password routes=nats_routes_password
secret valkey password=valkey_password redis_url=redis_url
secret registry-cursor-key cursor_key=registry_cursor_key
secret metering-signing-key export-signing.pem=export-signing.pem
