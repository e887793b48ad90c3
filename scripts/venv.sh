#!/bin/sh
# Creates the virtual environment $1 unless there is a usable one: Python 3.11 or newer, with pip.
# PYTHON names the interpreter to use; by default the first suitable one on the PATH.
set -eu
venv=$1
suits='import sys; sys.exit(sys.version_info < (3, 11))'

if "$venv/bin/python" -c "$suits" 2>/dev/null && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    exit 0
fi

found=
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14 python; do
    if "$candidate" -c "$suits" 2>/dev/null; then
        found=$candidate
        break
    fi
done
if [ -z "$found" ]; then
    echo "error: Python 3.11 or newer is needed; python3 is $(python3 --version 2>/dev/null || echo missing)." >&2
    echo "Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13)," >&2
    echo "or give its path: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$found" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "error: $found has no venv module. Debian and Ubuntu: apt install python$version-venv" >&2
    exit 1
fi
echo "Creating $venv with $("$found" --version)"
"$found" -m venv --clear "$venv"
