#!/bin/bash
# remove.sh FLEET [FOLDER]: removes the containers labelled with the fleet's name, and its network. Prints what it removed.
# With FOLDER a fleet that was made from another one is left alone: ends with 3 and says whose it is.
set -euo pipefail
fleet=$1
if [[ -n ${2:-} && $(podman network inspect --format '{{index .Labels "mirrorfleet.folder"}}' "$fleet" 2>/dev/null) != "$2" ]]; then
    whose=$("${0%/*}/whose.sh" "$fleet" "$2")
    [[ -z $whose ]] || { echo "$whose" >&2; exit 3; }
fi
for container in $(podman ps --all --quiet --filter "label=mirrorfleet.fleet=$fleet"); do
    # What is removed need not shut down. A busy machine may not see a container stop in time; a second try does.
    podman rm --force --time 0 --volumes "$container" || { sleep 2; podman rm --force --time 10 --volumes "$container"; }
done
if podman network exists "$fleet"; then
    podman network rm --force "$fleet"
fi
