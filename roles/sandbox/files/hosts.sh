#!/bin/bash
# hosts.sh FLEET FOLDER IPV4_PREFIX IPV6_PREFIX <LINES
# Every host of a fleet by one call. The first line is the public key that they let in, each further one a host:
# FQDN|IMAGE|ADDRESS|DISK|ALIASES|LOGIN|PORT|BARE|MACHINE_ID|FAMILIES|ROUTER|DELAY
set -euo pipefail
read -r key
while IFS='|' read -r fqdn image address disk aliases login port bare machine_id families router delay; do
    "${0%/*}/host.sh" "$1" "$2" "$fqdn" "$image" "$3" "$4" "$address" "$disk" "$aliases" "$login" "$port" "$bare" "$machine_id" \
        "$families" "$router" "$delay" <<<"$key" || { echo "$fqdn did not start." >&2; exit 1; }
done
