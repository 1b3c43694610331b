#!/bin/bash
# Build images with the Docker that DOCKER_HOST names: build.sh [TARGET...]
#   spine, tor, server   of the nodes, routed-lab/TARGET (`make images`); these three when none is named
#   agent                of deploy/Dockerfile, IMAGE (`make image`)
#   BASE    image to build on; without it a Debian 12 is made by debootstrap, once per machine
#   MIRROR  for debootstrap; without it, its own choice
# Packages come from the Debian mirrors of the base image, the agent's libraries from the package index of pip, checked
# against the hashes in requirements/run.txt; both are fetched here, so that no setting of this machine gets into an image.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=bookworm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/routed-lab
mkdir -p "$cache" build

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

quietly() { # COMMAND...: what it says matters only when it fails
    local log
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 30 "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    }
    rm -f "$log"
}

base_image() {
    local tarball=$cache/$suite-minbase.tar root
    if [ ! -e "$tarball" ]; then
        echo "Debian $suite by debootstrap"
        root=$(mktemp -d "$cache/debootstrap.XXXXXX")
        # shellcheck disable=SC2064 # expanded now: it is local
        trap "rm -rf '$root'" EXIT
        quietly debootstrap --variant=minbase $suite "$root" ${MIRROR:+"$MIRROR"}
        rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        # What debootstrap copies of the machine that it runs on.
        rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$root"/var/log/*.log
        tar --numeric-owner -C "$root" -cf "$tarball.$$" .
        mv "$tarball.$$" "$tarball"
    fi
    BASE=routed-lab/base:$suite
    if ! docker image inspect "$BASE" >/dev/null 2>&1; then quietly docker import "$tarball" "$BASE"; fi
}

locked_wheels() { # sets `locked`
    locked=$cache/wheels-$(sha256sum requirements/run.txt | cut -c1-12)
    [ -d "$locked" ] && return
    echo "wheels of requirements/run.txt"
    local work
    work=$(mktemp -d "$cache/wheels.XXXXXX")
    quietly /usr/bin/python3 -m venv "$work/venv" # Debian's Python, as in the image
    quietly "$work/venv/bin/pip" wheel --require-hashes --wheel-dir "$work/locked" -r requirements/run.txt
    mv -T "$work/locked" "$locked" 2>/dev/null || [ -d "$locked" ] # another run was faster
    rm -rf "$work"
}

[ -n "${BASE:-}" ] || base_image
locked_wheels
context=$(mktemp -d build/context.XXXXXX)
trap 'rm -rf "$context"' EXIT
mkdir "$context/wheels"
cp -rl "$locked" "$context/wheels/locked" 2>/dev/null || cp -r "$locked" "$context/wheels/locked"
mkdir "$context/source" # a copy: what earlier builds left beside the original must not get in
cp -r pyproject.toml README.md LICENSE routed bgp ipam ovs_flows "$context/source"
# The same source makes the same wheel, so that Docker's cache knows it.
SOURCE_DATE_EPOCH=315532800 quietly .venv/bin/pip wheel --no-deps --no-build-isolation \
    --wheel-dir "$context/wheels/routed" "$context/source"
rm -r "$context/source"
cp -r containerlab/images/* build/routed-cni "$context"
find "$context" -name __pycache__ -prune -exec rm -rf {} +
cp deploy/Dockerfile "$context/agent.Dockerfile"
[ $# -gt 0 ] || set -- spine tor server
for target; do
    image=routed-lab/$target file=Dockerfile
    if [ "$target" = agent ]; then image=$IMAGE file=agent.Dockerfile; fi
    echo "image $image"
    # The network of this machine: a build needs the package mirrors, and a Docker without a bridge has no other.
    quietly docker build --network host --build-arg "BASE=$BASE" --file "$context/$file" --target "$target" \
        --tag "$image" "$context"
done
