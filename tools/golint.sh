#!/bin/sh
# Runs gofmt and go vet on the given folders of Go modules; a module without Go files only pins programs.
set -eu

export GOTOOLCHAIN=auto GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0
for module in "$@"; do
    ls "$module"*.go >/dev/null 2>&1 || continue
    unformed=$(gofmt -l "$module")
    [ -z "$unformed" ] || { echo "gofmt would change: $unformed" >&2; exit 1; }
    (cd "$module" && go vet ./...)
done
