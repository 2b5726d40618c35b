#!/bin/sh
# Make the secrets that compose.yaml mounts, each in a file of its own; what is there stays as it is.
#
#   sh deploy/make-secrets.sh [FOLDER]
#
# Without a folder it is the one from which Compose takes them: SECRETS_DIR of .env or the environment, else ./secrets.
#
# The folder can be entered by its owner only. The files in it can be read by everyone, because each is mounted alone
# into containers that run as users this machine does not know.
set -eu

. "$(dirname "$0")/mounted.sh"

# What is made here and mounted by Compose; the certificate is not among it, since it may be yours.
names="nats_auth_password nats_registry_password nats_gateway_password nats_metering_password
    valkey_password redis_url registry_cursor_key"

if [ -n "${1:-}" ]; then
    folder=$1
elif docker compose version > /dev/null 2>&1; then
    mounted=$(mounted_secrets) || { echo "make-secrets: Compose does not say where secrets belong" >&2; exit 1; }
    first=$(mounted_file "$mounted" nats_auth_password)
    folder=${first%/*}
    for name in $names; do
        file=$(mounted_file "$mounted" "$name")
        [ "$file" = "$folder/$name" ] && continue
        echo "make-secrets: Compose mounts ${file:-nothing} as $name, not $folder/$name: nothing is made" >&2
        exit 1
    done
else
    folder=${SECRETS_DIR:-secrets}
fi
command -v openssl > /dev/null || { echo "make-secrets: openssl is needed" >&2; exit 1; }
umask 077
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

# Put what a command prints into a file that does not exist yet, whole or not at all.
put() {
    name=$1
    shift
    [ -e "$name" ] && return
    "$@" > ".$name.new"
    chmod 444 ".$name.new"
    mv ".$name.new" "$name"
    echo "made $folder/$name"
}

# nats-server reads a password as a value of its configuration: one that began with a digit would be a number.
password() { printf 'p%s' "$(openssl rand -hex 24)"; }
redis_url() { printf 'redis://:%s@valkey:6379/0' "$(cat valkey_password)"; }
tls_key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2> /dev/null; }
certificate() {
    openssl req -x509 -new -key tls_key.pem -days 825 -subj "/CN=ArtCafe PubSub on this machine" \
        -addext "subjectAltName=DNS:localhost,DNS:edge,IP:127.0.0.1,IP:::1" \
        -addext "keyUsage=critical,digitalSignature" -addext "extendedKeyUsage=serverAuth"
}

for user in auth registry gateway metering routes; do
    put "nats_${user}_password" password
done
put valkey_password password
if [ -e redis_url ] && [ "$(cat redis_url)" != "$(redis_url)" ]; then
    rm -f redis_url
fi
put redis_url redis_url
put registry_cursor_key openssl rand -base64 32
put tls_key.pem tls_key
put tls_certificate.pem certificate
