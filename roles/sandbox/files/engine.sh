#!/bin/sh
# Writes DIR/containers.conf: empty where podman's default runtime starts containers, else runc with explicit
# limits (crun fails with hybrid cgroups and no CAP_SYS_RESOURCE). Stops with podman's own error where neither works.
set -eu
dir=$1
mkdir -p "$dir"
# Fleets that start side by side ask once.
exec 9>"$dir/containers.conf.lock"
flock 9
[ ! -e "$dir/containers.conf" ] || exit 0
conf=$dir/containers.conf.new
trial=$(mktemp -d)
trap 'rm -rf "$trial"; podman rmi --force localhost/mirrorfleet/trial >/dev/null 2>&1 || true' EXIT

# The smallest image there is: one static program. busybox is not everywhere, so the machine's own shell and libraries.
mkdir -p "$trial/root"
ldd /bin/true | grep -o '/[^ ]*' | sort -u | while read -r library; do
    mkdir -p "$trial/root$(dirname "$library")"
    cp -L "$library" "$trial/root$library"
done
mkdir -p "$trial/root/bin"
cp /bin/true "$trial/root/bin/true"
tar -C "$trial/root" -c . | podman import --quiet - localhost/mirrorfleet/trial >/dev/null 2>"$trial/error" || {
    cat "$trial/error" >&2; exit 1; }

works() {
    CONTAINERS_CONF=$conf podman run --rm --network none --cap-add SYS_ADMIN,NET_ADMIN \
        localhost/mirrorfleet/trial /bin/true 2>"$trial/error"
}
: >"$conf"
if ! works; then
    cat >"$conf" <<'EOF'
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1000:1000"]
[engine]
runtime = "runc"
EOF
    works || {
        echo "Neither podman's default runtime nor runc starts a container here. podman says:" >&2
        cat "$trial/error" >&2
        exit 1
    }
fi
mv "$conf" "$dir/containers.conf"
