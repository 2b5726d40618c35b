#!/bin/sh
# Run create-tables or check-tables of all four services, one after the other:
#   sh deploy/tables.sh create-tables            in containers, by docker compose
#   sh deploy/tables.sh check-tables python      with .venv, and the settings of this shell
# Ends with 0 where all is as declared, 3 where there are differences, 1 where AWS could not be asked.
set -eu

command=${1:?create-tables or check-tables}
via=${2:-compose}
status=0
for service in auth registry gateway-ws metering; do
    code=0
    case $via in
        compose) docker compose run --rm --no-deps -T "$service" "$command" < /dev/null || code=$? ;;
        python) "${PYTHON:-.venv/bin/python}" -m "artcafe_${service%-ws}" "$command" || code=$? ;;
        *) echo "tables.sh: by compose or python, not $via" >&2; exit 2 ;;
    esac
    case $code in
        0) ;;
        3) [ "$status" -eq 1 ] || status=3 ;;
        *) echo "$service: $command ended with $code" >&2; status=1 ;;
    esac
done
exit "$status"
