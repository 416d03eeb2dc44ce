#!/bin/sh
# Writes every hash-locked requirements file: `make lock`. Pins stay where they are unless UPGRADE=1.
# PROGRAMS="bandersnatch-8.2.0-debian-13 ..." adds locks of further versions.
set -eu
cd "$(dirname "$0")"
uv=../.venv/bin/uv
# uv does not read pip's configuration; the index is whatever pip on this machine uses.
index=$(../.venv/bin/pip config get global.index-url 2>/dev/null || true)
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
upgrade=${UPGRADE:+--upgrade}

compile() {  # SOURCE OUTPUT ARGUMENTS...
    source=$1 output=$2; shift 2
    echo "locking $output"
    # shellcheck disable=SC2086
    $uv pip compile --quiet --generate-hashes --no-header --no-annotate $upgrade "$@" "$source" --output-file "$output"
}
python_of() { case $1 in debian-13) echo 3.13 ;; debian-12) echo 3.11 ;; *) echo "lock.sh: unknown platform $1" >&2; exit 2 ;; esac; }

compile control.in control.txt --universal --python-version 3.11
# Of the same versions, so that either may be installed over the other.
compile playbooks.in playbooks.txt --universal --python-version 3.11 --constraint control.txt
# With their extras, or pip would look for a newer hishel than the pinned one.
compile clients.in clients.txt --universal --python-version 3.11 --no-strip-extras
compile peers.in peers.txt --python-version 3.13 --python-platform x86_64-manylinux_2_28  # they run on a Debian 13
compile newest.in newest.txt --python-version 3.13 --python-platform x86_64-manylinux_2_28  # so does this
compile newest-playbooks.in newest-playbooks.txt --universal --python-version 3.12 --constraint newest.txt
for platform in debian-13 debian-12; do
    compile ../pyproject.toml "mirrorfleet-$platform.txt" --python-version "$(python_of $platform)" \
        --python-platform x86_64-manylinux_2_28
done
{ ls bandersnatch-*-debian-*.txt uv-*-debian-*.txt 2>/dev/null || true; for lock in ${PROGRAMS:-}; do echo "$lock.txt"; done; } |
    sort -u | while read -r lock; do
    program=${lock%%-*}
    version=${lock#"$program"-}; version=${version%%-debian-*}
    platform=${lock##*-debian-}; platform=debian-${platform%.txt}
    printf '%s==%s\n' "$program" "$version" > /tmp/lock.$$.in
    compile /tmp/lock.$$.in "$lock" --python-version "$(python_of "$platform")" --python-platform x86_64-manylinux_2_28
    rm -f /tmp/lock.$$.in
done
