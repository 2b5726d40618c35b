#!/bin/sh
# Put promtool, which tests alerts, at a path: from Debian's package, unpacked and not installed.
set -eu

target=$1
if ! command -v apt-get > /dev/null; then
    echo "promtool is missing: install Prometheus, or put promtool on the path" >&2
    exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(
    cd "$folder"
    apt-get download -qq prometheus 2> log || { apt-get update -qq && apt-get download -qq prometheus; } 2> log || {
        cat log >&2
        exit 1
    }
    dpkg-deb --extract prometheus_*.deb .
)
mv "$folder/usr/bin/promtool" "$target"
