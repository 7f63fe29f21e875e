#!/bin/sh
# Names everything that is missing on this machine, at once, each with how to get it.
#
#   tools/needs.sh build   what building and running the server needs
#   tools/needs.sh go      the Go tool, for the tests with the real Tailscale client and the lints of the Go modules
#   tools/needs.sh lint    rustfmt and clippy
#   tools/needs.sh check   what the tests of `make check` need besides, which root gets from apt here unless APT=no
#   tools/needs.sh test    the same for all tests
#
# PYTHON names the interpreter (python3 when it is not set). Exit code 1 when something is missing.
set -eu

PYTHON=${PYTHON:-python3}
RUST=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$(dirname "$0")/../Cargo.toml")
missing=0

# What the tests run beside the server: for which make target, the command, its Debian package, what for.
# A line more here is all that a new one needs.
system_parts() {
    case $1 in check) only='^check' ;; test) only='' ;; esac
    grep "$only" <<'END'
check  openssl   openssl       the tests of certificates and TLS, as a peer that is neither Go nor Rust
test   haproxy   haproxy       the tests of the PROXY protocol, as the proxy in front
test   nginx     libnginx-mod-stream  the same, as one that shares its port with a web server
check  systemd-socket-activate  systemd  the tests of socket activation, as what opens the sockets
check  systemd-analyze  systemd  the test of the unit in the pages, as what reads it
test   tinyproxy  tinyproxy-bin  the tests of outgoing requests, as the proxy that they go through
test   caddy     caddy         the tests of recipes for proxies, as one that ends TLS
test   dnsmasq   dnsmasq-base   the tests of the mesh, as the DNS server that knows its nodes
test   ip        iproute2      the tests of the prober, for network namespaces with TUN devices
test   faketime  faketime      the tests of clock jumps, as what sets the server's clock
test   chromium  chromium      the tests of WebSocket, as the browser that browsers' clients run in
test   prometheus  prometheus  the tests of what derpprobe and derper tell it, with its promtool
END
}

lacks() {
    [ "$missing" -eq 1 ] || echo "This is missing here:" >&2
    missing=1
    echo "  - $1" >&2
}

has() { command -v "$1" >/dev/null 2>&1; }

need_build() {
    if ! has "$PYTHON" || ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        lacks "Python 3.11 or newer as $PYTHON: apt-get install python3 python3-venv, or PYTHON=python3.12 behind make"
    elif ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        lacks "Python's venv module: apt-get install python3-venv"
    fi
    if ! has cargo; then
        lacks "cargo of Rust 1.$RUST or newer: https://rustup.rs"
    elif ! here=$(cargo --version 2>&1 | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p') || [ "${here:-0}" -lt "$RUST" ]; then
        lacks "Rust 1.$RUST or newer (here is $(cargo --version 2>&1 | head -n 1)): rustup update, or https://rustup.rs"
    fi
    has cc || lacks "a C compiler, cc: apt-get install gcc libc6-dev"
}

need_go() {
    has go || lacks "go, any from 1.21 on, as it fetches the release that is wanted: https://go.dev/dl/ (make check does without)"
}

need_lint() {
    cargo fmt --version >/dev/null 2>&1 || lacks "rustfmt: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || lacks "clippy: rustup component add clippy"
}

need_parts() {
    absent=$(system_parts "$1" | while read -r _ command package _; do has "$command" || printf ' %s' "$package"; done)
    [ -n "$absent" ] || return 0
    if [ "${APT:-yes}" != no ] && [ "$(id -u)" -eq 0 ] && has apt-get; then
        echo "The tests need system packages that are not here. Installing:$absent   (to prevent that: APT=no)" >&2
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -y -qq --no-install-recommends $absent >/dev/null && return 0
    fi
    system_parts "$1" | {
        while read -r _ command package reason; do has "$command" || echo "$command, for $reason: apt-get install $package"; done
    } | { while read -r line; do lacks "$line"; done; exit "$missing"; } || missing=1
}

for what in "$@"; do
    case $what in
    build) need_build ;;
    go) need_go ;;
    lint) need_lint ;;
    check | test) need_parts "$what" ;;
    *) echo "usage: $0 build|go|lint|check|test ..." >&2; exit 2 ;;
    esac
done
exit "$missing"
