#!/bin/bash
# Install the Debian packages of the real components that the lab, the tests and the benchmark run; with `containers`, those
# that real containerlab and the nodes' images need, if the machine has not got them from elsewhere; with `browser`, the one
# that looks at the audit's page; with `kernel`, the kernel that tests/kernel boot, with `kernel-bench` also what measures in it.
# Idempotent: when all are there, nothing happens and no network is needed. No daemon is started, and the host's own policy is
# restored.
set -euo pipefail

packages=(
    openvswitch-switch                          # servers' bridges, ToRs' switching
    frr bird2 gobgpd                            # ToRs and spines; other BGP speakers to compare with
    containerd runc containernetworking-plugins # the runtime that calls the CNI plugin; plugins to compare with
    etcd-server                                 # behind the API server of tests/kube
    busybox-static                              # what runs in the pods of tests/kube
    gcc libc6-dev make                          # the CNI plugin is a static C program
    iproute2 iputils-ping iptables nftables ethtool tcpdump procps util-linux
    openssl                                     # certificates of tests/kube, made at run time
    python3 python3-venv
)
if [[ ${1:-} == containers ]]; then
    packages=()
    command -v dockerd >/dev/null || packages+=(docker.io)
    command -v debootstrap >/dev/null || packages+=(debootstrap)
fi
if [[ ${1:-} == browser ]]; then
    packages=()
    command -v chromium >/dev/null || packages+=(chromium)
fi
if [[ ${1:-} == kernel ]]; then
    packages=(user-mode-linux)
fi
if [[ ${1:-} == kernel-bench ]]; then
    packages=(user-mode-linux qperf)
fi
policy=/usr/sbin/policy-rc.d

fail() {
    echo "packages.sh: $*" >&2
    exit 1
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    fail "this is not Debian: install the equivalents of ${packages[*]}"

installed() {
    [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then exit 0; fi
((EUID == 0)) || fail "needs root to install ${missing[*]}"

exec 9>/run/lock/routed-packages # one at a time: each moves the host's policy aside
flock 9

# A package's service must not start: the lab runs its own. invoke-rc.d asks this program; 101 says no.
saved=
if [ -e "$policy" ]; then
    saved=$(mktemp "$policy.XXXXXX")
    mv "$policy" "$saved"
fi
log=$(mktemp)
restore() {
    rm -f "$policy" "$log"
    if [ -n "$saved" ]; then mv "$saved" "$policy"; fi
}
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod +x "$policy"

export DEBIAN_FRONTEND=noninteractive
quietly() {
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 20 "$log" >&2
        fail "failed: $*"
    }
}
echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
quietly apt-get update -q
quietly apt-get install -q -y --no-install-recommends "${missing[@]}"
