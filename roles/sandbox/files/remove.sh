#!/bin/sh
# remove.sh FLEET: removes the containers labelled with the fleet's name, and its network. Prints what it removed.
set -eu
fleet=$1
for container in $(podman ps --all --quiet --filter "label=mirrorfleet.fleet=$fleet"); do
    podman rm --force --time 2 --volumes "$container"
done
if podman network exists "$fleet"; then
    podman network rm --force "$fleet"
fi
