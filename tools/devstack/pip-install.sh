#!/bin/sh
# Usage: pip-install.sh LABEL PYTHON ARGUMENT...
# Install with pip: a line every few seconds, and pip's own words only where it fails.
set -u
label=$1 python=$2
shift 2

log=$(mktemp) || exit 1
"$python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" >"$log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null; rm -f "$log"; exit 130' INT TERM HUP

echo "[setup] $label ..."
ticks=0
while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2 2>/dev/null || sleep 1
    ticks=$((ticks + 1))
    if [ $((ticks % 25)) -eq 0 ]; then
        count=$(grep -c '^Collecting' "$log")
        [ "$count" -eq 0 ] || echo "[setup] $label ... $count packages so far"
    fi
done
wait "$pid"
status=$?
if [ "$status" -ne 0 ]; then
    echo "[setup] $label: pip failed; its last words:" >&2
    grep -v '^WARNING' "$log" | tail -n 15 >&2
fi
rm -f "$log"
exit "$status"
