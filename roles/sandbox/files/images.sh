#!/bin/sh
# images.sh CERTIFICATES_DIR DEBIAN_MIRROR SUITE=TAG...: images of bare Debian hosts, as volunteers would have them
# after a minimal installation: systemd, sshd, python3, sudo, and nothing of ours. Prints "built TAG" for each it built.
set -eu
# Where the caller keeps bytecode is not where an installation does: what leaves its folders empty makes a namespace package
# of each Python package that is removed later.
unset PYTHONPYCACHEPREFIX PYTHONDONTWRITEBYTECODE
certificates=$1 mirror=$2 modules=${0%/*}/sandbox_modules.py
shift 2
if [ $# -gt 1 ]; then  # each in a process of its own, side by side
    pids=
    for pair; do
        "$0" "$certificates" "$mirror" "$pair" &
        pids="$pids $!"
    done
    for pid in $pids; do wait "$pid"; done
    exit 0
fi
suite=${1%%=*} tag=${1#*=}
# Fleets that start side by side build an image once.
exec 9>"/tmp/mirrorfleet-image-$suite.lock"
flock 9
packages=systemd,systemd-sysv,dbus,libnss-systemd,libpam-systemd,openssh-server,python3,python3-apt,sudo,iproute2,ca-certificates,adduser,netbase

# The image is rebuilt when this recipe or the trusted certificates change.
recipe=$( { cat "$0" "$modules"; cat "$certificates"/*.crt 2>/dev/null || true; echo "$mirror"; } | sha256sum | cut -c1-16)
if [ "$(podman image inspect --format '{{index .Labels "mirrorfleet.recipe"}}' "$tag" 2>/dev/null)" = "$recipe" ]; then
    echo "kept $tag"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/certificates"
cp "$certificates"/*.crt "$work/certificates/" 2>/dev/null || true
cat >"$work/hook.sh" <<'EOF'
set -eu
root=$1 certificates=$2 modules=$3
cp "$certificates"/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
chroot "$root" update-ca-certificates >/dev/null
# Debian's Python alone, not that of services; both files stay where a minimal host has no Python yet.
install -m 0644 "$modules" "$root/usr/lib/python3/dist-packages/"
chroot "$root" python3 -m py_compile /usr/lib/python3/dist-packages/sandbox_modules.py
echo 'import sandbox_modules' >"$root/usr/lib/python3/dist-packages/sandbox_modules.pth"
# A host that lives for minutes need not survive a power cut: package installation without fsync.
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/sandbox"
rm -f "$root"/etc/ssh/ssh_host_*
# The coordinator's account, as a volunteer would make it: an ordinary user with sudo, key login only.
chroot "$root" useradd --create-home --shell /bin/sh fleet
echo 'fleet ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/fleet"
chmod 0440 "$root/etc/sudoers.d/fleet"
cat >"$root/etc/systemd/system/sandbox-ssh-keys.service" <<'UNIT'
[Unit]
Description=SSH host keys of this host's own
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl enable --quiet sandbox-ssh-keys.service
# A container may not set the clock (no CAP_SYS_TIME): chronyd runs there without touching it.
mkdir -p "$root/etc/systemd/system/chrony.service.d"
cat >"$root/etc/systemd/system/chrony.service.d/sandbox.conf" <<'UNIT'
[Unit]
ConditionCapability=
[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd -F 1 -x
UNIT
EOF
# With the package lists, as an installation leaves them: else each host fetches and unpacks the same ones.
mmdebstrap --quiet --variant=apt --skip=cleanup/apt/lists --include="$packages" \
    --customize-hook="sh $work/hook.sh \"\$1\" $work/certificates $modules" \
    "$suite" "$work/root.tar" ${mirror:+"$mirror"} >"$work/log" 2>&1 || { tail -30 "$work/log" >&2; exit 1; }
podman import --quiet --change "LABEL mirrorfleet.recipe=$recipe" --change 'CMD ["/sbin/init"]' "$work/root.tar" "$tag" >/dev/null 2>"$work/log" ||
    { cat "$work/log" >&2; exit 1; }
echo "built $tag"
