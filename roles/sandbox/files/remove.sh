#!/bin/sh
# remove.sh FLEET: removes the containers labelled with the fleet's name, and its network. Prints what it removed.
set -eu
fleet=$1
for container in $(podman ps --all --quiet --filter "label=mirrorfleet.fleet=$fleet"); do
    # A busy machine may not see a container stop in time; a second try does.
    podman rm --force --time 2 --volumes "$container" || { sleep 2; podman rm --force --time 10 --volumes "$container"; }
done
if podman network exists "$fleet"; then
    podman network rm --force "$fleet"
fi
