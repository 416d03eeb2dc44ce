#!/bin/bash
# claim.sh FLEET FOLDER IPV4_PREFIX IPV6_PREFIX: the network of a fleet that belongs to FOLDER. Prints "changed" when it
# made it. Ends with 3 where the fleet is another's, and says whose.
set -euo pipefail
fleet=$1 folder=$2
read -r _ key _ <"$folder/id_ed25519.pub"
# podman makes a name once, whoever asks at the same time: who made the network has the fleet.
if ! podman network exists "$fleet" && said=$(podman network create --ipv6 --subnet "$3.0/24" --subnet "$4::/64" \
    --label "mirrorfleet.folder=$folder" --label "mirrorfleet.key=$key" "$fleet" 2>&1); then
    echo changed
    exit 0
fi
podman network exists "$fleet" || { echo "$said" >&2; exit 1; }
whose=$("${0%/*}/whose.sh" "$fleet" "$folder")
[[ -z $whose ]] || { echo "$whose" >&2; exit 3; }
