#!/bin/bash
# host.sh FLEET FOLDER FQDN IMAGE IPV4_PREFIX IPV6_PREFIX ADDRESS DISK ALIASES LOGIN PORT BARE MACHINE_ID FAMILIES ROUTER DELAY
# <PUBLIC_KEY
# One running Debian host. Prints "changed" when it had to do something, and the host's SSH keys as known_hosts lines.
set -euo pipefail
fleet=$1 folder=$2 fqdn=$3 image=$4 ipv4=$5.$7 ipv6=$6::$7 disk=$8 aliases=$9
shift 9
login=$1 port=$2 bare=$3 machine_id=$4 families=$5 router=$6 delay=$7
here=${0%/*}
container=$fleet-${fqdn%%.*}
key=$(cat)

# 2>/dev/null: podman warns of an unused CNI file at each call.
podman() { command podman "$@" 2> >(grep -v 'CNI config file' >&2); }
# A command of this machine in the network of a container.
within() { nsenter --net="$(podman container inspect --format '{{.NetworkSettings.SandboxKey}}' "$1")" "${@:2}"; }

# past FAMILY NETWORK ROUTER GATEWAY: the host sends to its neighbours by its router, and out of the network as they do.
past() {
    within "$container" ip "-$1" -batch - <<EOF
route add $3 dev eth0
route add $4 dev eth0
route del $2 dev eth0 proto kernel
route add $2 via $3
EOF
}

# detour FAMILY ADDRESS
detour() {
    # Of a detour that was: a rule outlives its interface. The first time there is none.
    within "$container" ip "-$1" rule del priority 100 2>/dev/null || true
    within "$container" ip "-$1" -batch - <<EOF
route add default dev far0 src $2 table 200
rule add iif lo lookup 200 priority 100
EOF
}

# Everybody else reaches the host at the router's addresses, by its names, and sees it come from there.
translate() {
    podman container exists "$container-router" || {
        podman create --name "$container-router" --label "mirrorfleet.fleet=$fleet" --label "mirrorfleet.folder=$folder" \
            --network "$fleet" --ip "${ipv4%.*}.$router" --ip6 "${ipv6%::*}::$router" "${names[@]}" \
            --sysctl net.ipv4.ip_forward=1 --sysctl net.ipv6.conf.all.forwarding=1 "$image" sleep infinity >/dev/null
    }
    podman start "$container-router" >/dev/null
    local public4=${ipv4%.*}.$router public6=${ipv6%::*}::$router
    # In one network a router would tell everybody of the way past it.
    within "$container-router" nft -f - <<EOF
table inet router {
    chain in {
        type nat hook prerouting priority dstnat
        ip daddr $public4 dnat ip to $ipv4
        ip6 daddr $public6 dnat ip6 to $ipv6
    }
    chain out {
        type nat hook postrouting priority srcnat
        ip saddr $ipv4 snat ip to $public4
        ip6 saddr $ipv6 snat ip6 to $public6
    }
    chain own {
        type filter hook output priority filter
        icmp type redirect drop
        icmpv6 type nd-redirect drop
    }
}
EOF
    past 4 "${ipv4%.*}.0/24" "$public4" "${ipv4%.*}.1"
    past 6 "${ipv6%::*}::/64" "$public6" "${ipv6%::*}::1"
}

# What the host itself sends takes a detour through an interface at which a program holds it back.
hold_back() {
    local log
    log=$(mktemp)
    within "$container" setsid "$here/delay.py" "$(podman container inspect --format '{{.State.Pid}}' "$container")" \
        far0 "$delay" >"$log" 2>&1 </dev/null &
    for _ in $(seq 50); do [[ -s $log ]] && break; sleep 0.1; done
    [[ $(cat "$log") == made ]] || { cat "$log" >&2; exit 1; }
    rm "$log"
    # It comes back from there with an address of the host's own, to be sent on; answers come another way.
    within "$container" sysctl --quiet --write net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.far0.accept_local=1 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.far0.rp_filter=0
    within "$container" ip link set far0 up
    detour 4 "$ipv4"
    detour 6 "$ipv6"
}

names=()
for alias in $fqdn $aliases; do names+=(--network-alias "$alias"); done

state=$(podman container inspect --format '{{.State.Running}} {{.Image}}' "$container" 2>/dev/null || true)
if [[ $state == "true "* ]]; then
    :
elif [[ $state == "false "* ]]; then
    podman start "$container" >/dev/null
    [[ -z $router ]] || translate
    echo changed
else
    options=()
    [[ -n $router ]] || options+=("${names[@]}")
    if [[ $families == ipv4 ]]; then
        "$here/ipv4_only.py" "$(podman info --format '{{.Host.Security.SECCOMPProfilePath}}')" >"$folder/$container.seccomp"
        options+=(--security-opt "seccomp=$folder/$container.seccomp")
    fi
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
    [[ -z $router ]] || translate
    echo changed
fi
if within "$container" ip link show far0 >/dev/null 2>&1; then
    [[ -n $delay ]] || { within "$container" ip link del far0 && echo changed; }
elif [[ -n $delay ]]; then
    hold_back
    echo changed
fi

podman exec -i "$container" sh -s "$key" "$login" "$port" "$bare" "$router" <<'EOF'
set -eu
login=$2 port=$3 bare=$4 router=$5
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
# Behind a router it asks DNS for its own name, as everybody does.
[ -z "$router" ] || sed -i "/[[:space:]]$(hostname)/d" /etc/hosts
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
    # As the smallest image of a provider: no Python, and what came with it; no package lists.
    if [ "$bare" = yes ]; then
        DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y --autoremove 'python3*' 'libpython3*' >/dev/null 2>&1
        find /var/lib/apt/lists -type f -delete && touch --date=@0 /var/lib/apt/lists
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
