#!/bin/sh
# Installs runback into a virtual environment, and says what it does: tools/install.sh .venv [EXTRA]
#
# Uses the interpreter in PYTHON, else the first supported one on PATH; and uv where it is installed.
set -eu

venv=$1
extra=${2:-}
names="python3.11 python3.12 python3.13 python3.14 python3"

say() {
    echo "runback: $*" >&2
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        if is_supported "$PYTHON"; then echo "$PYTHON"; fi
        return
    fi
    for name in $names; do
        if is_supported "$name"; then
            echo "$name"
            return
        fi
    done
}

create() {
    python=$(find_python)
    if [ -z "$python" ]; then
        tried=${PYTHON:+$PYTHON is not}
        say "Python 3.11 to 3.14 is needed, and ${tried:-none of $names is}; install one, or name it:" \
            "make train PYTHON=/path/to/python3"
        exit 1
    fi
    say "creating $venv with $("$python" --version)"
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --python "$python" "$venv"
    else
        "$python" -m venv "$venv"
    fi
}

install() {
    set -- --constraint constraints.txt --editable ".${extra:+[$extra]}"
    if command -v uv >/dev/null; then
        uv pip install --python "$venv/bin/python" "$@"
    else
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile "$@"
    fi
}

# On all processors, which is faster than pip. Where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, each process would compile mlflow and torch again, which takes seconds.
compile() {
    # Some packages contain templates that are no Python files: their errors mean nothing.
    "$venv/bin/python" -m compileall -qq -j 0 -x '/tests?/' "$venv/lib" src || true
}

test -x "$venv/bin/python" || create
say "installing runback${extra:+ and its extra $extra} into $venv: some minutes, and a download of 0.5 GB," \
    "or of 3 GB where torch comes with its CUDA libraries, unless they are in the cache already"
begun=$(date +%s)
install >&2
compile >&2
say "installed in $(($(date +%s) - begun)) s"
