#!/usr/bin/env bash
# The end-to-end tests with everything built from source: cosign v2 and v3 sign
# afresh, containerd 2 and Docker Engine 29 pull as well. Some ten minutes and a
# few GiB of build cache: by hand, not for every change. BIN keeps the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-$(mktemp -d)}
export CGO_ENABLED=0
build() { # NAME MODULE@VERSION [TAGS]
	[ -x "$bin/$1" ] && return
	echo "building $2"
	GOBIN="$bin/build" go install -trimpath -tags "${3:-}" "$2"
	mv "$bin/build/$(basename "${2%@*}")" "$bin/$1"
}
mkdir -p "$bin"
build cosign-v2 github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5
build cosign-v3 github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
for c in containerd ctr containerd-shim-runc-v2; do
	build "$c" "github.com/containerd/containerd/v2/cmd/$c@v2.4.2" no_btrfs,no_zfs,no_devmapper
done
build dockerd github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24 exclude_graphdriver_btrfs,exclude_graphdriver_zfs,no_systemd
# Signed afresh beside the committed fixtures, which stay as they are.
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
go run ./fixtures/make -cosign2 "$bin/cosign-v2" -cosign3 "$bin/cosign-v3" -out "$fresh/data"
COUNTERSIGN_FIXTURES=$fresh/data COUNTERSIGN_FULL_BIN=$bin CI=true CGO_ENABLED= \
	go test -count=1 -v -timeout 20m ./e2e
