#!/bin/bash
# whose.sh FLEET FOLDER: nothing where no fleet of this name is on this machine, or where it belongs to FOLDER; else
# whose it is, for people, and what to do. A fleet belongs to the folder that has its SSH key: its network names both.
set -euo pipefail
fleet=$1 folder=$2

label() { podman network inspect --format "{{index .Labels \"mirrorfleet.$1\"}}" "$fleet" 2>/dev/null; }
holds_key() { [[ -n $key && $(cat "$1/id_ed25519.pub" 2>/dev/null) == *" $key "* ]]; }

podman network exists "$fleet" || exit 0
owner=$(label folder) key=$(label key)
if holds_key "$owner"; then
    [[ $owner != "$folder" ]] || exit 0
    echo "The local fleet $fleet on this machine belongs to another checkout, which has its keys in $owner."
    echo "End it there first: make demo-down, for a test's hosts molecule destroy."
    exit 0
fi
if [[ -n $owner ]]; then
    echo "The local fleet $fleet on this machine was made by a checkout that had its keys in $owner, and they are no" \
         "longer there: it was removed, moved or made anew, and nobody can enter the hosts by them."
else
    echo "The local fleet $fleet on this machine does not say whose it is: it was made before fleets did."
fi
echo "When nobody needs it any more, remove it: ${SUDO_USER:+sudo }$(dirname "$(realpath "$0")")/remove.sh $fleet"
