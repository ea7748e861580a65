#!/usr/bin/env bash
# Makes .venv from the hash-locked requirements, then torch, then the project's own command.
# Usage: infra/setup.sh [PYTHON]
set -euo pipefail
python=${1:-python3}

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

command -v "$python" > /dev/null || fail "$python: not found; install Python 3.11 to 3.13, or name it: make PYTHON=..."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail "$("$python" --version) at $(command -v "$python"): allowed are 3.11 to 3.13; name another: make PYTHON=..."

# Debian and Ubuntu keep ensurepip in a package of its own.
if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        echo "installing python3-venv, without which $python makes no virtual environment" >&2
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt-get update -qq && apt-get install -y -qq "python$version-venv" > /dev/null
    else
        fail "$python has no venv module; install it: sudo apt-get install python3-venv"
    fi
fi

# To stderr: stdout may be what `make -s env` is evaluated from.
echo "making .venv; the first time this downloads about 1 GB, and takes some minutes" >&2
test -x .venv/bin/python || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet --progress-bar off)
"${pip[@]}" --no-deps --require-hashes -r requirements.lock
# Not in the lock: its build, and so its hash, depends on the machine (CPU or CUDA).
"${pip[@]}" "torch==2.13.0"
# The command `vitrine`; --no-index, for all that it takes is installed by now.
"${pip[@]}" --no-index --no-deps --no-build-isolation --editable .
touch .venv/installed
