"""What every host of the fleet has, and who can reach it."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

# Listeners that the firewall is asked about: the first is open to all, the second to debian-13, the third to nobody,
# the fourth to a name that is debian-13's.
OPEN, RESTRICTED, CLOSED, NAMED = PORTS = 443, 9100, 8080, 873
FRIEND = "friend.fleet.test"
NAMES = "mirrorfleet-names.service"


@pytest.fixture(scope="module", autouse=True)
def listeners(scenario, lead):
    for host in scenario.hosts.values():
        lead(host.shell, FRIEND, *scenario.hosts["debian-13"].addresses)
        for port in PORTS:
            host.shell.run(
                f"systemd-run --quiet --unit listener-{port} python3 -m http.server --bind :: {port}"
            )
            host.shell.check_output(
                f"for _ in $(seq 100); do ss -Hltn 'sport = {port}' | grep -q . && exit; sleep 0.1; done; exit 1"
            )
    yield
    for host in scenario.hosts.values():
        host.shell.check_output(f"systemctl stop {' '.join(f'listener-{port}' for port in PORTS)}")
        lead(host.shell, FRIEND)


# --- the host as declared ---


@pytest.mark.parametrize("name", ["chrony", "nftables", "unattended-upgrades", "ssh"])
def test_services_run_now_and_after_a_reboot(host, name):
    service = host.service(name)
    assert service.is_running and service.is_enabled


def test_nothing_but_ssh_is_offered_to_the_network(host):
    sockets = host.check_output("ss -Htuln").splitlines()
    local = [line.split()[4] for line in sockets]
    offered = {address.rsplit(":", 1)[1] for address in local if not re.match(r"127\.|\[::1\]", address)}
    assert offered == {"22", *map(str, PORTS)}


def test_our_programs_user_can_do_nothing_else(host):
    user = host.user("mirror")
    assert user.shell == "/usr/sbin/nologin"
    assert user.home == "/srv/mirror"
    assert user.groups == ["mirror"]
    assert 100 <= user.uid < 1000
    assert user.password in {"!", "!*", "*"}


def test_folders_belong_to_whom_they_should(host):
    found = host.check_output("stat -c '%U %G %a' /etc/mirrorfleet /var/lib/mirrorfleet").splitlines()
    assert found == ["root mirror 750", "mirror mirror 755"]
    assert host.run("runuser -u mirror -- touch /etc/mirrorfleet/x").failed
    assert host.run("runuser -u nobody -- ls /etc/mirrorfleet").failed


def test_packages_of_all_roles_came_in_one_transaction(host):
    transactions = host.file("/var/log/apt/history.log").content_string.split("\n\n")
    (ours,) = [one for one in transactions if re.search(r"^Install:.*\bchrony:", one, re.M)]
    for package in ("nftables", "rsync", "unattended-upgrades"):
        assert re.search(rf"\b{package}:", ours), package


def test_security_updates_come_by_themselves_and_never_reboot(host):
    settings = host.check_output(
        "apt-config dump APT::Periodic Unattended-Upgrade; apt-config dump Unattended-Upgrade"
    )
    for setting in (
        'APT::Periodic::Update-Package-Lists "1"',
        'APT::Periodic::Unattended-Upgrade "1"',
        'Unattended-Upgrade::Automatic-Reboot "false"',
        "label=Debian-Security",
    ):
        assert setting in settings
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert (
            host.check_output(f"systemctl is-active {timer}; systemctl is-enabled {timer}")
            == "active\nenabled"
        )


def test_the_fleets_authority_is_trusted(host, scenario):
    bundle = host.file("/etc/ssl/certs/ca-certificates.crt").content_string
    authority = (scenario.dir / "authority/ca.pem").read_text().strip()
    assert authority in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 50  # Debian's own are trusted as before


# --- the firewall, from outside ---

ALL = (22, *PORTS)


def test_only_what_was_declared_is_open_and_to_whom(me, scenario, open_ports):
    expected = {
        None: {22, OPEN},
        "debian-13": {22, OPEN, RESTRICTED, NAMED},
        "debian-12": {22, OPEN},
        me.name: set(ALL),  # they do listen
    }
    # All at once, for a port that is closed costs the whole wait.
    with ThreadPoolExecutor(len(expected)) as pool:
        found = pool.map(lambda source: open_ports(me, ALL, scenario.hosts.get(source)), expected)
    assert dict(zip(expected, found, strict=True)) == expected


def test_ping_and_path_mtu_discovery_are_let_through(host):
    rules = host.check_output("nft list table inet mirrorfleet")
    assert "policy drop;" in rules
    for kind in ("echo-request", "destination-unreachable", "packet-too-big", "nd-neighbor-solicit"):
        assert kind in rules, kind


def test_the_firewall_comes_back_with_a_reboot(me, host, open_ports):
    """As systemd loads it then, and nobody else any; the SSH connection that asks for it lives on."""
    before = host.check_output("nft list table inet mirrorfleet")
    host.check_output("nft delete table inet mirrorfleet && systemctl restart nftables.service")
    until = time.monotonic() + 60
    while (after := host.check_output("nft list ruleset")) != before and time.monotonic() < until:
        time.sleep(0.2)
    assert after == before, "with whom it knows by name"
    assert open_ports(me, ALL) == {22, OPEN}


def test_who_moves_is_let_in_at_the_new_address_and_not_at_the_old_one(me, scenario, open_ports, lead):
    """By name, in both families; and while the name leads nowhere, where it led last."""
    one, two = (scenario.hosts[name] for name in ("debian-13", "debian-12"))
    lead(me.shell, FRIEND, *two.addresses)
    assert NAMED in open_ports(me, ALL, two)
    if me.name != one.name:
        assert NAMED not in open_ports(me, ALL, one)
    lead(me.shell, FRIEND)
    assert NAMED in open_ports(me, ALL, two)
    assert "does not resolve" in me.shell.check_output(f"journalctl --no-pager --unit {NAMES}")
    lead(me.shell, FRIEND, *one.addresses)
    assert NAMED in open_ports(me, ALL, one)
    if me.name != two.name:
        assert NAMED not in open_ports(me, ALL, two)


def test_names_are_looked_up_every_five_minutes(host):
    timer = "systemctl --no-pager show --property NextElapseUSecRealtime --value mirrorfleet-names.timer"
    due = host.check_output(f'echo $(($(date --date "$({timer})" +%s) - $(date +%s)))')
    assert -5 < int(due) <= 300
    assert host.check_output(f"systemctl is-enabled mirrorfleet-names.timer {NAMES}") == "enabled\nenabled"
    assert host.run(f"systemd-analyze security --no-pager --threshold=26 {NAMES}").succeeded


def test_a_firewall_that_was_there_stays_open_after_a_reboot(scenario):
    """Asked above is what comes through it now; this is what would close it again."""
    shell = scenario.hosts["debian-12"].shell
    assert shell.run("systemctl is-enabled netfilter-persistent.service").stdout.strip() == "disabled"
    assert "REJECT" in shell.file("/etc/iptables/rules.v4").content_string  # its files are its operator's
    assert "-A INPUT" not in shell.check_output("iptables-save --table filter")


# --- what goes wrong ---


def test_a_firewall_that_shuts_the_control_node_out_is_taken_back_by_the_host(me, scenario, open_ports):
    """Nobody is at a console, and the connection over which it was loaded may be lost at any moment."""
    watched = "nft list ruleset; sha256sum /etc/nftables.conf; systemctl is-active chrony.service"
    before = me.shell.check_output(watched)
    outcome = scenario.play(
        f"--limit={me.name}", host_baseline_ssh_ports=[2222], host_baseline_trial_seconds=15
    )
    assert outcome.code != 0
    said = " ".join(outcome.said.split())
    assert "The new firewall lets no new connection of the control node in" in said
    assert "15 seconds after it was loaded" in said
    deadline = time.monotonic() + 60
    while not (back := open_ports(me, [22])) and time.monotonic() < deadline:
        time.sleep(1)
    assert back == {22}
    assert me.shell.check_output(watched) == before
    assert scenario.converge().changed[me.name] == 0


def test_a_ruleset_that_a_killed_run_left_on_trial_is_proven_by_the_next(me, scenario):
    """The control node died between loading and proving; until the timer takes it back, the next run takes it up."""
    me.shell.check_output("nft list table inet mirrorfleet >/var/lib/host_state/former.nft")
    me.shell.check_output(
        "systemd-run --quiet --unit=host-state-firewall --on-active=600 nft delete table inet mirrorfleet"
    )
    assert scenario.converge().changed[me.name] == 2  # the rules, and whom they let in by name
    assert me.shell.run("systemctl is-active host-state-firewall.timer").stdout.strip() == "inactive"
    assert not me.shell.file("/var/lib/host_state/former.nft").exists
    assert me.shell.run("nft list table inet mirrorfleet").rc == 0


SNAPSHOT = (
    "nft list ruleset; sha256sum /etc/nftables.conf /etc/apt/apt.conf.d/99mirrorfleet; id mirror; dpkg --list"
)


def test_wrong_ports_are_told_all_at_once_before_anything_is_changed(scenario):
    hosts = scenario.hosts.values()
    before = [host.shell.check_output(SNAPSHOT) for host in hosts]
    wrong = [{"port": 70000}, {"port": 80, "sources": ["::/x"]}]
    outcome = scenario.play(host_baseline_packages=["tree"], host_baseline_open_ports=wrong)
    assert outcome.code != 0
    for words in ("70000", "::/x"):
        assert words in outcome.said, words
    assert [host.shell.check_output(SNAPSHOT) for host in hosts] == before


TAMPER = """
set -e
nft add rule inet mirrorfleet input accept
usermod --shell /bin/bash --append --groups sudo mirror
chmod 0777 /etc/mirrorfleet
systemctl disable --quiet --now chrony.service
systemctl mask --quiet --now apt-daily-upgrade.timer
rm /etc/apt/apt.conf.d/99mirrorfleet /usr/local/share/ca-certificates/mirrorfleet/ca.crt
update-ca-certificates >/dev/null 2>&1
dpkg --force-depends --remove rsync >/dev/null
"""


@pytest.fixture(scope="session")
def repaired(scenario, open_ports):
    for host in scenario.hosts.values():
        host.shell.check_output(TAMPER)
        assert open_ports(host, ALL) == set(ALL)
    assert all(scenario.converge().changed.values())


def test_what_was_tampered_with_is_repaired(repaired, me, host, scenario, open_ports):
    test_only_what_was_declared_is_open_and_to_whom(me, scenario, open_ports)
    test_our_programs_user_can_do_nothing_else(host)
    test_folders_belong_to_whom_they_should(host)
    test_security_updates_come_by_themselves_and_never_reboot(host)
    test_the_fleets_authority_is_trusted(host, scenario)
    test_services_run_now_and_after_a_reboot(host, "chrony")
    assert host.package("rsync").is_installed
