#!/bin/bash
# Print where the containerlab program is; build it when this machine has not got that version yet (about a minute).
# It comes from the Go module proxy, checked against Go's checksum database, and is compiled with the Go that it asks for:
# a Go of 1.21 or later fetches the right one by itself (GOTOOLCHAIN=auto).
set -euo pipefail
version=v0.79.0 # needs Go 1.26; the first with `privileged: false` was 0.78
module=github.com/srl-labs/containerlab
folder=${XDG_CACHE_HOME:-$HOME/.cache}/routed-lab/containerlab-$version

# It reads /proc/modules and gives up when there is none, which is so where the kernel has no loadable modules. There, and
# only there, that one name is replaced by an empty file's.
patch=
if [ ! -e /proc/modules ]; then
    patch='s|"/proc/modules"|"/dev/null"|'
    folder+=-no-modules
fi

if [ ! -x "$folder/containerlab" ]; then
    command -v go >/dev/null || {
        echo "fetch.sh: there is no Go to build containerlab with" >&2
        exit 1
    }
    mkdir -p "${folder%/*}"
    work=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    export GOTOOLCHAIN=auto CGO_ENABLED=0 GOFLAGS=-buildvcs=false
    # Not `go install`: the source is needed for the replacement, and its own go.sum is used.
    source=$(cd "$work" && go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
    cp -r --no-preserve=mode "$source" "$work/source"
    if [ -n "$patch" ]; then sed -i "$patch" "$work/source/utils/kernel_module.go"; fi
    (cd "$work/source" && go build -trimpath -ldflags "-s -w -X $module/cmd.Version=${version#v}" -o "$work/containerlab" . >&2)
    rm -rf "$work/source"
    mv -T "$work" "$folder" 2>/dev/null || [ -x "$folder/containerlab" ] # another run was faster
    trap - EXIT
    rm -rf "$work"
    chmod 755 "$folder"
fi
echo "$folder/containerlab"
