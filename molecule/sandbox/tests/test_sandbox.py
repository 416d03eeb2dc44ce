"""The hosts are what volunteers would lend: real systemd, real sshd, names in DNS; and a fleet leaves as it came."""

import os
import subprocess

import pytest

# As the role's own variables: rootful containers, by the runtime that works on this machine.
SUDO = [] if os.geteuid() == 0 else ["sudo"]


def podman(*arguments):
    return subprocess.check_output(
        [*SUDO, "podman", *arguments], text=True, stderr=subprocess.DEVNULL
    ).split()


def ssh(me, key, user="fleet", *command):
    """A client of nobody's configuration, that knows the host by the key that the role wrote down."""
    return subprocess.run(
        ["ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
         "-o", f"UserKnownHostsFile={key.parent / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes",
         f"{user}@{me.ipv4}", *command],
        capture_output=True, text=True, check=False, timeout=60,
        env={name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"},
    )  # fmt: skip


def test_the_host_is_the_debian_that_was_asked_for_with_systemd_at_its_head(host, me):
    assert f"debian-{host.system_info.release.split('.')[0]}" == me.name
    assert host.system_info.distribution == "debian"
    assert host.check_output("cat /proc/1/comm") == "systemd"
    assert host.check_output("hostname --fqdn") == f"{me.name}.fleet.test"
    # What a container lacks by default, and systemd then leaves out silently.
    sandboxed = host.run("systemd-run --quiet --wait --pipe --property ProtectSystem=strict touch /etc/x")
    assert sandboxed.failed and "Read-only file system" in sandboxed.stderr


def test_its_packages_are_compiled_where_their_removal_looks_for_it(host):
    modules = host.check_output("find /usr/lib/python3/dist-packages/apt/__pycache__ -name '*.pyc'")
    assert "__init__.cpython" in modules


def test_only_the_fleets_key_opens_it(me, role, tmp_path):
    key = role.dir / "id_ed25519"
    assert ssh(me, key, "fleet", "sudo", "id", "-un").stdout == "root\n"
    assert "Permission denied" in ssh(me, key, "root", "true").stderr
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    (tmp_path / "known_hosts").write_text((role.dir / "known_hosts").read_text())
    assert "Permission denied" in ssh(me, tmp_path / "other", "fleet", "true").stderr


def test_no_password_opens_it(host):
    for user in ("root", "fleet"):
        assert host.user(user).password[0] in "!*"


def test_each_host_has_an_ssh_key_of_its_own(role):
    lines = (role.dir / "known_hosts").read_text().splitlines()
    names = [name for host in role.hosts.values() for name in (host.ipv4, f"{host.name}.fleet.test")]
    assert [line.split()[0] for line in lines] == names
    assert len({line.split()[2] for line in lines}) == len(role.hosts)


def test_people_get_in_by_the_ssh_configuration(me, role):
    done = subprocess.run(
        ["ssh", "-F", role.dir / "ssh_config", me.name, "hostname"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{me.name}.fleet.test\n"


def test_hosts_find_each_other_by_name_in_both_families(me, other):
    for kind, address in (("ahostsv4", me.ipv4), ("ahostsv6", me.ipv6)):
        assert other.shell.check_output("getent %s %s", kind, f"{me.name}.fleet.test").split()[0] == address


def test_it_is_not_privileged(me, role):
    container = f"{role.variables['sandbox_name']}-{me.name}"
    assert podman("container", "inspect", "--format", "{{.HostConfig.Privileged}}", container) == ["false"]


# --- a second fleet, beside: from nothing to nothing ---


@pytest.fixture(scope="module")
def trial(role):
    """What was changed, and what was there, as it was made, made again, stopped, removed, and removed again."""
    name = f"{role.variables['sandbox_name']}-trial"
    folder = role.dir.parent / name
    network = int(role.variables["sandbox_ipv4_prefix"].rsplit(".", 1)[1]) + 100
    variables = {
        "sandbox_name": name,
        "sandbox_dir": str(folder),
        "sandbox_ipv4_prefix": f"10.89.{network}",
        "sandbox_ipv6_prefix": f"fd00:89:{network}",
        "sandbox_hosts": [
            {
                "name": "small",
                "platform": "debian-13",
                "address": 10,
                "aliases": ["other-name"],
                "disk": "64m",
            }
        ],
    }
    told = {}

    def look(moment, **more):
        outcome = role.play(playbook="trial.yml", **variables, **more)
        assert outcome.code == 0, outcome.said
        told[moment] = (outcome.changed["localhost"], left())

    def left():
        return (
            podman("ps", "--all", "--quiet", "--filter", f"label=mirrorfleet.fleet={name}"),
            podman("network", "ls", "--quiet", "--filter", f"name={name}"),
            sorted(path.name for path in folder.iterdir()) if folder.exists() else None,
        )

    def inside(*command):
        return subprocess.check_output(["ssh", "-F", folder / "ssh_config", "small", *command], text=True)

    try:
        look("made")
        told["disk"] = inside("df", "--output=target,size", "/srv").split()[-2:]
        told["alias"] = inside("getent", "ahostsv4", "other-name.fleet.test").split()[0]
        look("made again")
        podman("stop", "--time", "2", f"{name}-small")
        look("stopped and made again")
        told["alive"] = inside("cat", "/proc/1/comm").strip()
    finally:
        look("removed", sandbox_state="absent")
    look("removed again", sandbox_state="absent")
    return told | {"network": network}


def test_a_fleet_is_made_once(trial):
    changed, (containers, networks, files) = trial["made"]
    assert changed > 0
    assert (len(containers), len(networks)) == (1, 1)
    assert files == ["id_ed25519", "id_ed25519.pub", "known_hosts", "ssh_config"]
    assert trial["made again"] == (0, trial["made"][1])


def test_a_host_that_was_stopped_runs_again(trial):
    assert trial["stopped and made again"] == (1, trial["made"][1])
    assert trial["alive"] == "systemd"


def test_a_host_may_have_a_disk_and_names_of_its_own(trial):
    assert trial["disk"] == ["/srv", str(64 * 1024)]
    assert trial["alias"] == f"10.89.{trial['network']}.10"


def test_a_removed_fleet_leaves_nothing(trial):
    changed, left = trial["removed"]
    assert changed > 0
    assert left == ([], [], None)
    assert trial["removed again"] == (0, ([], [], None))


def test_other_fleets_are_left_alone(trial, host):
    assert host.check_output("cat /proc/1/comm") == "systemd"


def test_the_hosts_are_what_the_role_would_make(role):
    assert role.converge().changed == {"localhost": 0}
