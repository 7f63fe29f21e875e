#!/bin/sh
# Writes requirements/ from pyproject.toml: exact versions with hashes, for all supported Python versions and machines.
#
#   tools/lock.sh             keeps the locked versions that still satisfy pyproject.toml
#   tools/lock.sh --upgrade   uses the newest versions that satisfy it
set -eu

UV=uv==0.13.9
tool=.cache/lock

test -x "$tool/bin/uv" || { .venv/bin/python -m venv "$tool" && "$tool/bin/pip" install --quiet "$UV"; }
compile() {
    "$tool/bin/uv" pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --system-certs --custom-compile-command "make lock" "$@"
}
compile -o requirements/run.txt "$@"
compile -o requirements/dev.txt --group dev --constraints requirements/run.txt "$@"
