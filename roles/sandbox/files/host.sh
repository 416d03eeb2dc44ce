#!/bin/bash
# host.sh FLEET FOLDER FQDN IMAGE IPV4_PREFIX IPV6_PREFIX ADDRESS DISK ALIASES LOGIN PORT BARE MACHINE_ID <PUBLIC_KEY
# One running Debian host. Prints "changed" when it had to do something, and the host's SSH keys as known_hosts lines.
set -euo pipefail
fleet=$1 folder=$2 fqdn=$3 image=$4 ipv4=$5.$7 ipv6=$6::$7 disk=$8 aliases=$9
shift 9
login=$1 port=$2 bare=$3 machine_id=$4
container=$fleet-${fqdn%%.*}
key=$(cat)

# 2>/dev/null: podman warns of an unused CNI file at each call.
podman() { command podman "$@" 2> >(grep -v 'CNI config file' >&2); }

state=$(podman container inspect --format '{{.State.Running}} {{.Image}}' "$container" 2>/dev/null || true)
if [[ $state == "true "* ]]; then
    :
elif [[ $state == "false "* ]]; then
    podman start "$container" >/dev/null
    echo changed
else
    options=()
    for alias in $fqdn $aliases; do options+=(--network-alias "$alias"); done
    # A file system of its own, so that "disk full" can happen to this host alone.
    [[ -z $disk ]] || options+=(--tmpfs "/srv:rw,size=$disk,mode=0755")
    podman create --name "$container" --hostname "$fqdn" --systemd=always \
        --cap-add SYS_ADMIN,NET_ADMIN --label "mirrorfleet.fleet=$fleet" --label "mirrorfleet.folder=$folder" \
        --network "$fleet" --ip "$ipv4" --ip6 "$ipv6" "${options[@]}" "$image" >/dev/null
    # Before systemd makes one: two hosts that were cloned from one image have the same.
    [[ -z $machine_id ]] || podman cp - "$container:/etc" < <(
        folder=$(mktemp -d) && echo "$machine_id" >"$folder/machine-id" && tar -C "$folder" --owner=0 --group=0 -c machine-id
        rm -r "$folder")
    podman start "$container" >/dev/null
    echo changed
fi

podman exec -i "$container" sh -s "$key" "$login" "$port" "$bare" <<'EOF'
set -eu
login=$2 port=$3 bare=$4
# Wait until systemd has come up and sshd listens: a minute at the most, on a machine that does other things too.
up() {
    for _ in $(seq 600); do
        systemctl is-active --quiet ssh.service 2>/dev/null && [ -s /etc/ssh/ssh_host_ed25519_key.pub ] && return
        sleep 0.1
    done
    { echo "sshd did not start:"; systemctl status ssh.service; } >&2
    exit 1
}
# podman mounts these over the files, which makes hostnamectl and dhcp clients fail with "busy". (Not by way of /tmp, which
# systemd may be emptying now.)
for file in /etc/hostname /etc/hosts; do
    if mountpoint -q $file; then
        cp $file $file.mounted && umount $file && cat $file.mounted >$file && rm $file.mounted
    fi
done
home=$(getent passwd "$login" | cut -d: -f6)
install -d -o "$login" -g "$login" -m 0700 "$home/.ssh"
[ "$(cat "$home/.ssh/authorized_keys" 2>/dev/null)" = "$1" ] || {
    echo "$1" >"$home/.ssh/authorized_keys"
    chown "$login:$login" "$home/.ssh/authorized_keys"
    chmod 0600 "$home/.ssh/authorized_keys"
    # Once: what a host's owner did to it later is theirs.
    if [ "$login" = root ]; then
        userdel --remove fleet 2>/dev/null
        rm /etc/sudoers.d/fleet
        SUDO_FORCE_REMOVE=yes DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y sudo >/dev/null 2>&1
    fi
    # As the smallest image of a provider: no Python, and what came with it.
    if [ "$bare" = yes ]; then
        DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y --autoremove 'python3*' 'libpython3*' >/dev/null 2>&1
    fi
    if [ "$port" != 22 ]; then
        echo "Port $port" >/etc/ssh/sshd_config.d/port.conf
        up
        systemctl restart ssh.service
    fi
}
up
EOF
podman exec "$container" cat /etc/ssh/ssh_host_ed25519_key.pub | while read -r type public _; do
    for name in "$ipv4" "$fqdn"; do
        [[ $port == 22 ]] || name="[$name]:$port"
        printf '%s %s %s\n' "$name" "$type" "$public"
    done
done
