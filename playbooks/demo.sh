#!/bin/bash
# demo.sh up: a local fleet, from bare hosts to a real pip and uv served by every listed mirror, with the playbooks that
# a real fleet runs. demo.sh page opens its status page, demo.sh down removes it, demo.sh images-down its images too.
# Called by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."
# Never the inventory of the shell it is called from: that may be a real fleet's. Tests name copies of the sandbox's.
export PATH=$PWD/.venv/bin:$PATH ANSIBLE_CONFIG=$PWD/ansible.cfg
export ANSIBLE_INVENTORY=${SANDBOX_INVENTORY:-$PWD/inventory/sandbox/fleet.yml}
log=build/log/demo${SANDBOX_NAME:+-$SANDBOX_NAME}
mkdir -p build/log

steps=(
    "hosts|bare Debian hosts with systemd and sshd|playbooks/sandbox.yml|"
    "provision|bare hosts become an origin, mirrors and a redirector with one index for all|playbooks/provision.yml|See docs/provision.md; run it again when the cause is mended, it goes on where it stopped."
    "publish|the list of mirrors, from the inventory and from what was just measured|playbooks/publish.yml|See docs/publish.md."
    "use|a real pip and a real uv install from every listed mirror, and by the one index URL of the fleet|playbooks/demo.yml|"
)

up() {
    local summary="" number=0 begun
    local started=$SECONDS
    for step in "${steps[@]}"; do
        IFS='|' read -r name what playbook hint <<<"$step"
        number=$((number + 1)) begun=$SECONDS
        printf '\n\033[1m==> %d/%d %s: %s\033[0m (ansible-playbook %s)\n' $number ${#steps[@]} "$name" "$what" "$playbook"
        if ! ansible-playbook "$playbook" | tee "$log-$name.log"; then
            printf '\n\033[1mStep %d (%s) failed.\033[0m The reason is above and in %s. %s\n' \
                $number "$name" "$log-$name.log" "$hint" >&2
            printf 'To start over: make demo-down demo\n' >&2
            return 1
        fi
        summary+=$(printf '  %-10s %4d s   changed: %s' "$name" $((SECONDS - begun)) \
            "$(sed -n 's/.*changed=\([0-9]*\).*/\1/p' "$log-$name.log" | awk '{n += $1} END {print n + 0}')")$'\n'
    done
    printf '\n\033[1mThe fleet runs.\033[0m\n'
    # What stands apart at the end of that run's summary.
    sed -n '/^demo\.yml: /,$p' "$log-use.log" | sed '1,/^$/d; s/^/  /'
    printf '\n%s  all        %4d s\n\n' "$summary" $((SECONDS - started))
    cat <<'EOF'
Where to look next:
  ansible mirrors -m ansible.builtin.command -a 'systemctl --no-pager list-timers'     the hosts themselves
  ansible client -m ansible.builtin.command -a 'curl -s URL'                the fleet as a client sees it
  ansible-playbook playbooks/status.yml                                     one table: who is listed, what runs, what needs a person
  ansible-playbook playbooks/update.yml                                     after changing a pin in inventory/sandbox/fleet.yml
  make demo-down                                                            remove it all
(with `. .venv/bin/activate` first; docs/ has a page for each job)

The status page, in a browser of this machine:
EOF
    printf '  %smake -sC %q demo-page\n' "${SANDBOX_NAME:+SANDBOX_NAME=$SANDBOX_NAME }" "$PWD"
}

page() {
    local folder=${SANDBOX_BUILD:-build}/${SANDBOX_NAME:-sandbox} address
    [[ -e $folder/ssh_config ]] || { echo "No local fleet of this checkout runs; make demo starts one." >&2; exit 1; }
    address=$(ssh -G -F "$folder/ssh_config" redirector | awk '$1 == "hostname" {print $2}')
    exec python3 playbooks/demo_page.py https://redirector.fleet.test/ "$address" "$folder/private/authority/ca.pem"
}

down() {
    [[ -x .venv/bin/ansible-playbook ]] || { echo "No .venv, so no fleet of ours runs."; return; }
    ansible-playbook playbooks/sandbox.yml -e sandbox_state=absent
}

images_down() {
    local sudo=
    [[ $(id -u) == 0 ]] || sudo=sudo
    command -v podman >/dev/null || return 0
    # Not by force, which would end the hosts of other checkouts: they share the images.
    for image in $($sudo podman images --quiet --filter reference='localhost/mirrorfleet/*'); do
        $sudo podman rmi "$image" || echo "The image $image is left: hosts of another checkout run on it."
    done
}

case ${1:-} in
    up) up ;;
    page) page ;;
    down) down ;;
    images-down) images_down ;;
    *) echo "usage: demo.sh up | page | down | images-down" >&2; exit 2 ;;
esac
