#!/usr/bin/env bash
# Installs the real clients and servers that the end-to-end tests run, from
# Debian's packages. Elsewhere, or without root, it says what is left out and
# leaves it to the tests to say so too.
set -euo pipefail
packages=()
want() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || packages+=("$2"); }
want skopeo skopeo
want podman podman
want containerd containerd
want runc runc
want dockerd docker.io
want notary notary
want notary-server notary
[ ${#packages[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
	echo "not installed (this is not Debian, or not root): ${packages[*]}" >&2
	exit 0
fi
# Daemons are started by the tests, in a network of their own, never by dpkg.
if [ ! -e /usr/sbin/policy-rc.d ]; then
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod +x /usr/sbin/policy-rc.d
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
