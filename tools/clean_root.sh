#!/usr/bin/env bash
# Runs `make check` as on a clean machine: in a new Debian root without Go and without the programs that tests run.
#
#   tools/clean_root.sh                          all tests of make check
#   PYTEST_FLAGS='-k dns' tools/clean_root.sh    fewer tests
#
# First `make check` has to name each missing package and install nothing; then `make check APT=yes` has to pass.
# The Rust toolchain, target/, the extensions and the installed requirements are reused. Packages come from the
# machine's own apt sources. Needs root for the mounts, which end with the process.
set -euo pipefail
cd "$(dirname "$0")/.."
repo=$PWD

if [ "${1:-}" != inside ]; then
    tools/needs.sh build clean
    if [ "$(id -u)" -ne 0 ]; then
        echo "tools/clean_root.sh: permission denied: run it as root, because it mounts file systems" >&2
        exit 1
    fi
    make --no-print-directory extensions
    root=$(mktemp --directory)
    trap 'rmdir "$root"' EXIT
    unshare --mount --propagation private "$0" inside "$root"
    exit
fi
root=$2
mount -t tmpfs -o mode=755 tmpfs "$root"

# The machine's Debian or Ubuntu sources, and how it fetches them.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/{debian,ubuntu}.sources; do
    if [ -s "$file" ]; then sources+=("$file"); fi
done
options=$(mktemp)
apt-config dump | grep '^Acquire::' | grep -v '^Acquire::\(IndexTargets\|Languages\|Changelogs\)' >"$options" || true
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,gcc,libc6-dev,make \
    --aptopt="$options" --dpkgopt=force-unsafe-io "$suite" "$root" "${sources[@]}"
rm "$options"

# A copy of the repository at the same path, with the times of its files: nothing is built again.
mkdir -p "$root$repo"
{ git ls-files -z; printf '%s\0' .venv/bin .venv/locked src/derper/dataplane/*.abi3.so tests/switchboard/*.abi3.so; } |
    tar --create --null --files-from=- | tar --extract --directory "$root$repo"
rm "$root$repo"/.venv/bin/python*
# The data plane for tests is linked with the interpreter's library where the machine's Python has one.
mkdir -p "$root/usr/local/lib"
ldd tests/switchboard/_sim.abi3.so | sed -n 's/^\s*libpython\S* => \(\/\S*\) .*/\1/p' |
    while read -r library; do cp --dereference "$library" "$root/usr/local/lib/"; done
chroot "$root" ldconfig
git -C "$root$repo" init --quiet
git -C "$root$repo" add .

mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
# The toolchain, the files that cargo has downloaded and built, and the requirements that are installed.
rust=("$(rustc --print sysroot)" "${CARGO_HOME:-$HOME/.cargo}" "${CARGO_TARGET_DIR:-$repo/target}")
reused=("${rust[@]}")
version='import sys; print(sys.version_info[:2])'
if [ "$(.venv/bin/python -c "$version")" = "$(chroot "$root" python3 -c "$version")" ]; then
    reused+=("$repo/.venv/lib")
    chroot "$root" sh -c "cd '$repo' && python3 -m venv --without-pip .venv"
else
    rm -r "$root$repo/.venv" # make installs them for the root's Python
fi
for folder in "${reused[@]}"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then
        mkdir -p "$root${file%/*}"
        cp --dereference "$file" "$root$file"
    fi
done

within() {
    local path=${rust[0]}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    chroot "$root" env --ignore-environment PATH="$path" HOME=/root LANG=C.UTF-8 CI="${CI:-}" \
        CARGO_HOME="${rust[1]}" CARGO_TARGET_DIR="${rust[2]}" PYTEST_FLAGS="${PYTEST_FLAGS:-}" \
        http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" "$@" </dev/null
}

installed() { within dpkg-query --show; }
before=$(installed)
if said=$(within make -C "$repo" check 2>&1); then
    echo "make check passed in a root without the programs that it needs:"
    echo "$said"
    exit 1
fi
for package in git dnsmasq-base systemd; do
    if ! grep -q "apt-get install .*\b$package\b" <<<"$said"; then
        echo "make check did not name the missing package $package:"
        echo "$said"
        exit 1
    fi
done
if [ "$before" != "$(installed)" ]; then echo "make check installed packages without APT=yes"; exit 1; fi
echo "make check named what is missing, and installed nothing"
within make -C "$repo" check APT=yes
