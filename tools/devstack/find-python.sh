#!/bin/sh
# Print the interpreter to build with: $PYTHON if it is given, else the newest one on the PATH that is good enough.
# Otherwise say in one line what is missing.
set -u

# Tells 0: good, 3: too old, 4: without venv. Anything else is no working interpreter.
check='import sys
if sys.version_info < (3, 11):
    sys.exit(3)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)'

if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c "$check" >/dev/null 2>&1
    case $? in
        0) echo "$PYTHON"; exit 0 ;;
        3) echo "$PYTHON is too old: Python 3.11 or newer is needed" >&2 ;;
        4) echo "$PYTHON cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv)" >&2 ;;
        *) echo "$PYTHON is not a Python interpreter that can be run" >&2 ;;
    esac
    exit 1
fi

without_venv=
for name in python3.14 python3.13 python3.12 python3.11 python3 python; do
    "$name" -c "$check" >/dev/null 2>&1
    case $? in
        0) echo "$name"; exit 0 ;;
        4) without_venv=$name ;;
    esac
done
if [ -n "$without_venv" ]; then
    echo "$without_venv cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv), or name another interpreter with PYTHON=..." >&2
else
    echo "Python 3.11 or newer is needed and none was found: install one, or name it with PYTHON=..." >&2
fi
exit 1
