#!/bin/sh
# Lists all missing programs of this machine, each with its installation.
#
#   tools/needs.sh build   for building and running the server
#   tools/needs.sh go      the Go tool, for the tests with the real Tailscale client and the lints of the Go modules
#   tools/needs.sh lint    rustfmt and clippy
#   tools/needs.sh check   the programs for the tests of `make check`
#   tools/needs.sh test    the programs for all tests
#   tools/needs.sh clean   the programs for tools/clean_root.sh
#
# Several arguments may be given. Debian packages are installed with APT=yes, and as root also for `test` and `clean`
# unless APT=no. PYTHON is the interpreter (default python3). Exit code 1: a program is missing.
set -eu

PYTHON=${PYTHON:-python3}
RUST=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$(dirname "$0")/../Cargo.toml")
missing=''
packages=''

# Programs that the tests run: the make target, the command, its Debian package, the purpose.
# A new program needs one more line here.
system_parts() {
    case $1 in check) only='^check' ;; test) only='^check\|^test' ;; clean) only='^clean' ;; esac
    grep "$only" <<'END'
check  git       git           the tests of the repository's own files
check  openssl   openssl       the tests of certificates and TLS, as a peer that is neither Go nor Rust
check  dnsmasq   dnsmasq-base  the tests of bootstrap DNS and of the mesh, as the DNS server
check  systemd-socket-activate  systemd  the tests of socket activation, as what opens the sockets
check  systemd-analyze  systemd  the test of the unit in the pages, as what reads it
check  /bin/kill  procps     the same, as the program that the unit reloads with
test   haproxy   haproxy       the tests of the PROXY protocol, as the proxy in front
test   nginx     libnginx-mod-stream  the same, as one that shares its port with a web server
test   tinyproxy  tinyproxy-bin  the tests of outgoing requests, as the proxy that they go through
test   microsocks  microsocks  the tests of outgoing requests, as the SOCKS5 proxy that they go through
test   caddy     caddy         the tests of recipes for proxies, as one that ends TLS
test   ip        iproute2      the tests of the prober, for network namespaces with TUN devices
test   faketime  faketime      the tests of clock jumps, as what sets the server's clock
test   chromium  chromium      the tests of WebSocket, as the browser that browsers' clients run in
test   prometheus  prometheus  the tests of what derpprobe and derper tell it, with its promtool
clean  mmdebstrap  mmdebstrap  the run of make check in a new Debian root
END
}

# Record a missing program and the Debian packages that contain it.
add_missing() {
    missing="$missing  - $1
"
    shift
    for package in "$@"; do
        case " $packages " in *" $package "*) ;; *) packages="${packages:+$packages }$package" ;; esac
    done
}

has() { command -v "$1" >/dev/null 2>&1; }

need_build() {
    if ! has "$PYTHON" || ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        add_missing "Python 3.11 or newer as $PYTHON: apt-get install python3 python3-venv, or PYTHON=python3.12 after make" \
            python3 python3-venv
    elif ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        add_missing "Python's venv module: apt-get install python3-venv" python3-venv
    fi
    if ! has cargo; then
        add_missing "cargo of Rust 1.$RUST or newer: https://rustup.rs"
    elif ! here=$(cargo --version 2>&1 | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p') || [ "${here:-0}" -lt "$RUST" ]; then
        add_missing "Rust 1.$RUST or newer (here is $(cargo --version 2>&1 | head -n 1)): rustup update, or https://rustup.rs"
    fi
    has cc || add_missing "a C compiler, cc: apt-get install gcc libc6-dev" gcc libc6-dev
}

need_go() {
    has go || add_missing "go, any from 1.21 on, as it fetches the release that is wanted: https://go.dev/dl/ (make check does without)"
}

need_lint() {
    cargo fmt --version >/dev/null 2>&1 || add_missing "rustfmt: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || add_missing "clippy: rustup component add clippy"
}

need_parts() {
    while read -r _ command package reason; do
        has "$command" || add_missing "$command, for $reason: apt-get install $package" "$package"
    done <<END
$(system_parts "$1")
END
}

find_missing() {
    missing='' packages=''
    for what in "$@"; do
        case $what in
        build) need_build ;;
        go) need_go ;;
        lint) need_lint ;;
        check | test | clean) need_parts "$what" ;;
        *) echo "usage: $0 build|go|lint|check|test|clean ..." >&2; exit 2 ;;
        esac
    done
}

# Return 0 if packages may be installed: with APT=yes, or for `test` as root.
may_install() {
    [ -n "$packages" ] && has apt-get || return 1
    [ "${APT:-}" = yes ] && return 0
    case " $* " in *' test '* | *' clean '*) [ -z "${APT:-}" ] && [ "$(id -u)" -eq 0 ] ;; *) return 1 ;; esac
}

find_missing "$@"
if may_install "$@"; then
    if [ "$(id -u)" -eq 0 ]; then
        echo "Installing Debian packages that are missing here: $packages   (to prevent that: APT=no)" >&2
        export DEBIAN_FRONTEND=noninteractive
        # shellcheck disable=SC2086  a list of packages
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null; } || true
        find_missing "$@"
    else
        echo "APT=yes installs packages only as root" >&2
    fi
fi
[ -n "$missing" ] || exit 0
printf 'This is missing here:\n%s' "$missing" >&2
if [ -n "$packages" ]; then
    echo "All Debian packages at once, as root: apt-get install --no-install-recommends $packages" >&2
    [ "${APT:-}" = yes ] || echo "or let make install them, as root: make ... APT=yes" >&2
fi
exit 1
