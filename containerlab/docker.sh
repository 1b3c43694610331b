#!/bin/bash
# A Docker for the containerlab runner: `docker.sh start` prints the DOCKER_HOST to use, `docker.sh stop` ends what start
# started, when no container runs on it (or with --all). Where a Docker answers already it is used as it is, and stop does nothing.
#
# Otherwise dockerd runs here for this checkout alone: images and layers in build/docker, sockets and state below /run. It
# makes no bridge and no firewall rule, since nodes have no network but their links; so it never meets another Docker.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$PWD/build/docker
run=/run/routed-docker-$(sha256sum <<<"$PWD" | cut -c1-8)
own=unix://$run/docker.sock

answers() { timeout 10 docker --host "$1" version >/dev/null 2>&1; }
running() { [ -e "$run/pid" ] && [ "$(readlink "/proc/$(cat "$run/pid")/exe")" = "$(readlink -f "$(command -v dockerd)")" ]; }

start() {
    local found
    for found in ${DOCKER_HOST:+"$DOCKER_HOST"} unix:///var/run/docker.sock "$own"; do
        if answers "$found"; then
            echo "$found"
            return
        fi
    done
    command -v dockerd >/dev/null || {
        echo "docker.sh: no Docker answers, and there is no dockerd to start (Debian: docker.io)" >&2
        exit 1
    }
    mkdir -p "$data" "$run"
    echo '{}' >"$run/daemon.json" # and not the machine's own
    # A containerd that runs already would be used: in a namespace of our own.
    setsid dockerd --config-file "$run/daemon.json" --pidfile "$run/pid" --host "$own" \
        --data-root "$data" --exec-root "$run/exec" --containerd-namespace "routed-${run##*-}" \
        --bridge none --iptables=false --ip-forward=false --ip-masq=false \
        --exec-opt native.cgroupdriver=cgroupfs >"$run/log" 2>&1 </dev/null 9>&- &
    local pid=$! deadline=$((SECONDS + 60))
    until answers "$own"; do
        if ! kill -0 $pid 2>/dev/null || ((SECONDS > deadline)); then
            grep -v level=info "$run/log" | tail -n 20 >&2
            echo "docker.sh: dockerd does not start" >&2
            exit 1
        fi
        sleep 0.1
    done
    echo "$own"
}

stop() { # [--all]: containers that run keep it, unless all are to go
    running || return 0
    local containers=
    if answers "$own"; then containers=$(docker --host "$own" ps --quiet); fi
    if [ -n "$containers" ]; then
        [ "${1:-}" = --all ] || return 0
        # shellcheck disable=SC2086 # one word per container
        docker --host "$own" rm --force $containers >/dev/null
    fi
    local pid
    pid=$(cat "$run/pid")
    kill "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.1; done
    umount "$run"/exec/netns/* 2>/dev/null || true
    rm -rf "$run"
}

mkdir -p build
exec 9>build/docker.lock # one at a time
flock 9
case ${1:-} in
    start) start ;;
    stop) stop "${2:-}" ;;
    *)
        echo "docker.sh: start, stop or stop --all" >&2
        exit 2
        ;;
esac
