#!/usr/bin/env bash
# Make or mend the virtual environment from envs/requirements.lock: envs/setup.sh VENV
# pip's own output goes to a log beside the environment and is shown only when something fails.
set -euo pipefail

venv=${1:?usage: envs/setup.sh VENV}
envs=$(cd "$(dirname "$0")" && pwd)
lock=$envs/requirements.lock
log=$venv/setup.log

say() { printf '%s\n' "$*" >&2; }

# `python3.11` may be a pyenv shim that starts nothing, or a Debian package without venv: try before use.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 /usr/bin/python3.11 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11.*/bin/python3.11 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "error: no Python 3.11 with venv found: install python3.11 and python3.11-venv (or pyenv install 3.11),"
    say "       or name one: make setup PYTHON=/path/to/python3.11"
    return 1
}

python=$(find_python)
if ! command -v "${CC:-cc}" >/dev/null && ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then
    say "error: no C compiler found (cc, gcc or clang): install one, for example apt-get install gcc, or set CC"
    exit 1
fi

say "setting up $venv with $python; pip's output goes to $log"
# A copied or half-made environment cannot be mended, only made again.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

install() {
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >>"$log" 2>&1; then
        grep -v '^WARNING: .*find-links' "$log" | tail -n 30 >&2 || true
        say "error: pip install $* failed; the whole log is $log. Offline, point PIP_FIND_LINKS or PIP_INDEX_URL at a local copy."
        exit 1
    fi
}

: >"$log"
# torch first and by its exact version, so that nothing else chooses another build of it.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu spares a machine without a GPU the CUDA libraries.
install "$(grep '^torch==' "$lock")" --constraint "$lock" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
install --requirement "$lock"
say "set up: $("$venv/bin/python" -V), $(grep -c == "$lock") pinned packages"
