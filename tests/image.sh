#!/bin/bash
# Run a command with ROUTED_IMAGE naming a folder of an image's files and configuration: image.sh IMAGE COMMAND...
set -euo pipefail
image=$1
shift
folder=$(mktemp -d)
container=$(docker create "$image")
trap 'docker rm "$container" >/dev/null; rm -rf "$folder"' EXIT
mkdir "$folder/root"
docker export "$container" | tar -x -C "$folder/root"
docker inspect --format '{{json .Config}}' "$container" >"$folder/config.json"
ROUTED_IMAGE=$folder "$@"
