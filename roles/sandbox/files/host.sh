#!/bin/bash
# host.sh FLEET FOLDER FQDN IMAGE IPV4_PREFIX IPV6_PREFIX ADDRESS DISK ALIASES <PUBLIC_KEY: one running Debian host.
# Prints "changed" when it had to do something, and the host's SSH keys as known_hosts lines.
set -euo pipefail
fleet=$1 folder=$2 fqdn=$3 image=$4 ipv4=$5.$7 ipv6=$6::$7 disk=$8 aliases=$9
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
    podman run --detach --name "$container" --hostname "$fqdn" --systemd=always \
        --cap-add SYS_ADMIN,NET_ADMIN --label "mirrorfleet.fleet=$fleet" --label "mirrorfleet.folder=$folder" \
        --network "$fleet" --ip "$ipv4" --ip6 "$ipv6" "${options[@]}" "$image" >/dev/null
    echo changed
fi

podman exec -i "$container" sh -s "$key" <<'EOF'
set -eu
# podman mounts these over the files, which makes hostnamectl and dhcp clients fail with "busy".
for file in /etc/hostname /etc/hosts; do
    if mountpoint -q $file; then
        cp $file /tmp/mounted && umount $file && cat /tmp/mounted >$file && rm /tmp/mounted
    fi
done
install -d -o fleet -g fleet -m 0700 /home/fleet/.ssh
[ "$(cat /home/fleet/.ssh/authorized_keys 2>/dev/null)" = "$1" ] || {
    echo "$1" >/home/fleet/.ssh/authorized_keys
    chown fleet:fleet /home/fleet/.ssh/authorized_keys
    chmod 0600 /home/fleet/.ssh/authorized_keys
}
# Wait until systemd has come up and sshd listens: 30 seconds at the most.
for _ in $(seq 300); do
    systemctl is-active --quiet ssh.service && [ -s /etc/ssh/ssh_host_ed25519_key.pub ] && break
    sleep 0.1
done
systemctl is-active --quiet ssh.service || { echo "sshd did not start:"; systemctl status ssh.service; exit 1; } >&2
EOF
podman exec "$container" cat /etc/ssh/ssh_host_ed25519_key.pub | while read -r type public _; do
    printf '%s %s %s\n' "$ipv4" "$type" "$public"
done
