#!/bin/sh
# Replace a secret or a key of what docker compose runs here by a new one, and recreate those who use it:
#
#   sh deploy/rotate.sh nats-auth        (nats-registry, nats-gateway, nats-metering)
#   sh deploy/rotate.sh valkey           (cursor-key, certificate, issuer-key, export-key)
#
# It may be run again where it was interrupted.
set -eu

here=$(dirname "$0")
. "$here/mounted.sh"

usage() {
    sed -n 's/^#   sh/sh/p' "$0" >&2
    exit 2
}

# Make the files of secrets anew, which must be those that Compose mounts.
anew() {
    files=
    for name; do
        case $name in tls_*) made="$name.pem" ;; *) made=$name ;; esac
        file=$(mounted_file "$mounted" "$name")
        if [ "$file" != "$folder/$made" ]; then
            echo "rotate: Compose mounts ${file:-nothing} as $name, not $folder/$made: nothing is changed" >&2
            exit 1
        fi
        files="$files $made"
    done
    for made in $files; do
        rm -f "$folder/$made"
    done
    sh "$here/make-secrets.sh" "$folder"
}

# A certificate that make-secrets.sh has made may be replaced; any other is yours.
is_own_certificate() {
    [ "$1" = "$folder/tls_certificate.pem" ] || return 1
    [ ! -e "$1" ] || openssl x509 -noout -subject -in "$1" | grep -q "ArtCafe PubSub on this machine"
}

# Have Compose leave as many containers of each service as run now, whatever .env says: it takes the services that others
# wait for back to that number, too.
keep_replicas() {
    for pair in AUTH:auth REGISTRY:registry GATEWAY:gateway-ws METERING:metering; do
        count=$(docker compose ps --quiet "${pair#*:}" | wc -l)
        [ "$count" -eq 0 ] || export "${pair%%:*}_REPLICAS=$count"
    done
}

# Recreate services, which read their files at the start only, and wait until they are ready.
recreate() {
    docker compose up --detach --wait --no-build --force-recreate "$@"
}

# Remove a key from a service's volume: it makes itself another one.
key_of() {
    docker compose exec -T "$1" rm -f "$2"
    docker compose restart "$1"
    docker compose up --detach --wait --no-build --no-recreate "$1"
}

[ $# -gt 0 ] || usage
mounted=$(mounted_secrets)
folder=$(mounted_file "$mounted" nats_auth_password)
folder=${folder%/*}
keep_replicas
case ${1:-} in
    nats-auth | nats-registry | nats-gateway | nats-metering)
        user=${1#nats-}
        service=$user
        [ "$user" = gateway ] && service=gateway-ws
        anew "nats_${user}_password"
        recreate nats "$service"
        ;;
    valkey)
        anew valkey_password redis_url
        recreate valkey metering
        ;;
    cursor-key)
        anew registry_cursor_key
        recreate registry
        ;;
    certificate)
        # Of one that is yours put the new files in place first.
        if is_own_certificate "$(mounted_file "$mounted" tls_certificate)"; then
            anew tls_key tls_certificate
        fi
        recreate edge
        ;;
    issuer-key)
        key_of auth /state/issuer.pem
        ;;
    export-key)
        # Whoever checks manifests of the old key needs its public half.
        kept="$folder/export-keys-$(date -u +%Y%m%dT%H%M%SZ).json"
        docker compose exec -T metering python -c "import urllib.request as r
print(r.urlopen('http://127.0.0.1:8103/api/v1/usage/export/keys.json').read().decode())" > "$kept"
        echo "kept the public half of the old key: $kept"
        # Where metering finds it, and tells it beside the new one.
        docker compose exec -T metering sh -c "mkdir -p /state/export-keys
            cat > /state/export-keys/.new && mv /state/export-keys/.new /state/export-keys/${kept##*/}" < "$kept"
        key_of metering /state/export-signing.pem
        ;;
    *)
        usage
        ;;
esac
echo "rotated $1; make doctor says whether all is well"
