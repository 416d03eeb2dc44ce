"""Mirrors that sync from a real origin: what they got, how they are kept from doing more, and what repairs them."""

import json
import posixpath
import re
import shlex
from dataclasses import dataclass, field

import pytest

SERVED = "/srv/mirror/served"
UNIT = "mirror-sync.service"
BANDERSNATCH = {"debian-13": "8.2.0", "debian-12": "6.8.0"}
FORMER = {"debian-13": "8.1.0", "debian-12": "6.8.0.1"}
SYNC = "/opt/mirrorfleet/current/bin/mirrorfleet sync"


def files_of(host, project):
    page = json.loads(host.file(f"{SERVED}/simple/{project}/index.v1_json").content_string)
    return {file["filename"]: file for file in page["files"]}


def location(project, file):
    """As a client resolves the URL: by its text, not by where links lead."""
    return posixpath.normpath(f"{SERVED}/simple/{project}/{file['url'].split('#')[0]}")


# --- what was fetched ---


def newest_of(files):
    newest = max(name.split("-")[1] for name in files)
    return {name for name in files if name.split("-")[1] == newest}


def test_the_newest_release_of_the_selected_projects_is_served_as_the_origin_has_it(me, host, scenario):
    origin = scenario.hosts["origin"].shell
    for project in ("alpha", "beta-two"):
        ours, theirs = files_of(host, project), files_of(origin, project)
        assert ours.keys() == newest_of(theirs)
        for name, file in ours.items():
            assert file["hashes"] == theirs[name]["hashes"]
            content = host.check_output("sha256sum < %s", location(project, file))
            assert content.split()[0] == file["hashes"]["sha256"]
    root = json.loads(host.file(f"{SERVED}/simple/index.v1_json").content_string)
    assert [project["name"] for project in root["projects"]] == ["alpha", "beta-two"]
    status = json.loads(host.file(f"{SERVED}/mirror.json").content_string)
    assert (status["mode"], status["set_aside"]) == ("bandersnatch", [])
    assert status["versions"]["bandersnatch"] == BANDERSNATCH[me.name]


def test_the_programs_are_the_pinned_ones(me, host):
    for program, version in {"mirrorfleet": "0.1.0", "bandersnatch": BANDERSNATCH[me.name]}.items():
        assert host.check_output(f"readlink /opt/{program}/current") == version
        assert host.check_output(f"/opt/{program}/current/bin/{program} --version").split()[-1] == version
    assert host.check_output("find /opt/mirrorfleet /opt/bandersnatch ! -user root | head -1") == ""


def test_bandersnatch_has_our_filters_of_the_version_that_runs_it_and_else_its_own_packages(host):
    look = "import mirrorfleet, packaging; print(mirrorfleet.__file__, packaging.__file__)"
    ours, others = host.check_output(f"/opt/bandersnatch/current/bin/python -c '{look}'").split()
    assert ours.startswith("/opt/mirrorfleet/current/") and others.startswith("/opt/bandersnatch/")


def test_no_run_begins_without_our_filters(host, confined):
    """bandersnatch would pass over their names, and fetch every release."""
    site = "/opt/bandersnatch/current/lib/python3*/site-packages"
    host.check_output(f"mv {site}/mirrorfleet.pth /root/")
    run = confined(UNIT, SYNC)
    host.check_output(f"mv /root/mirrorfleet.pth {site}/")
    assert run.rc == 4
    assert (
        "has no plugin mirrorfleet_names, mirrorfleet_newest, mirrorfleet_places" in run.stdout + run.stderr
    )


def test_configurations_are_for_their_reader_only(host):
    for name in ("mirror.json", "bandersnatch.conf"):
        file = host.file(f"/etc/mirrorfleet/{name}")
        assert (file.user, file.group, file.mode) == ("root", "mirror", 0o640)
    assert host.run("runuser -u nobody -- ls /srv/mirror/fetched").failed
    assert host.run(f"runuser -u nobody -- cat {SERVED}/simple/alpha/index.html").succeeded


# --- the unit ---


def test_the_timer_runs_at_a_moment_of_each_hosts_own(host, scenario):
    assert (
        host.check_output("systemctl is-active mirror-sync.timer; systemctl is-enabled mirror-sync.timer")
        == "active\nenabled"
    )
    calendars = {
        scenario.hosts[name].shell.check_output("systemctl show --property TimersCalendar mirror-sync.timer")
        for name in BANDERSNATCH
    }
    assert len(calendars) == 2
    assert all(re.search(r"OnCalendar=\*-\*-\* \*:0?\d/10:\d\d ", calendar) for calendar in calendars)


OWN = ("/srv/mirror/served", "/srv/mirror/fetched", "/var/lib/mirrorfleet")
# Everything here the user mirror may do, and the unit may not.
FORBIDDEN = (
    "touch /opt/probe/x", "touch /srv/probe/x", "touch /etc/probe/x", "ls /home/probe", "ls /tmp/probe",
    "test -e /proc/1", "grep 'NoNewPrivs:.*0' /proc/self/status", "grep 'CapBnd:.*[1-9a-f]' /proc/self/status",
    "chrt --batch 0 true", "setarch --uname-2.6 true",
    "python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)'",
    "python3 -c 'import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)'",
)  # fmt: skip


@pytest.fixture
def attempts(host):
    """Each attempt that succeeds tells its name."""
    host.check_output("cd / && install -d -m 0777 opt/probe srv/probe etc/probe home/probe tmp/probe")
    yield "\n".join(f"({each}) >/dev/null 2>&1 && echo {shlex.quote(each)}" for each in FORBIDDEN) + "\ntrue"
    host.check_output("cd / && rm -r opt/probe srv/probe etc/probe home/probe tmp/probe")


def test_the_unit_may_write_its_trees_and_nothing_else(host, confined, attempts):
    for folder in OWN:
        assert confined(UNIT, f"id -un; touch {folder}/x && rm {folder}/x").stdout == "mirror\n"
    assert host.check_output("runuser -u mirror -- sh -c %s", attempts).splitlines() == list(FORBIDDEN)
    assert confined(UNIT, attempts).stdout == ""


def test_systemd_finds_the_unit_little_exposed(host):
    assert host.run("systemd-analyze security --no-pager --threshold=25 mirror-sync.service").succeeded


def test_one_run_at_a_time(host, confined):
    """The second gives way at once, says so, and the next one is as good as ever."""
    host.check_output(
        "systemd-run --quiet --unit holder --property User=mirror flock /var/lib/mirrorfleet/lock sleep 300;"
        "for _ in $(seq 100); do flock --nonblock /var/lib/mirrorfleet/lock true || exit 0; sleep 0.1; done; exit 1"
    )
    second = confined(UNIT, SYNC)
    host.check_output("systemctl stop holder.service")
    assert second.rc == 3
    assert "another run is at work" in second.stdout + second.stderr
    assert host.run(f"systemctl start {UNIT}").succeeded


# --- what happens to a mirror ---


@dataclass
class Story:
    links: dict = field(default_factory=dict)
    synced: dict = field(default_factory=dict)


@pytest.fixture(scope="session")
def story(scenario):
    """Upstream changes; then back to former versions, tampered with meanwhile, and as declared again."""
    told, mirrors = Story(), [scenario.hosts[name] for name in BANDERSNATCH]

    def look(moment):
        for mirror in mirrors:
            told.links[moment, mirror.name] = mirror.shell.check_output(
                "readlink /opt/mirrorfleet/current /opt/bandersnatch/current;"
                "/opt/bandersnatch/current/bin/python -c"
                " 'import mirrorfleet, os; print(os.path.realpath(mirrorfleet.__file__).split(\"/\")[3])'"
            ).split()

    scenario.hosts["origin"].shell.check_output(
        "cp -p /srv/packages/alpha/alpha-1.1-py3-none-any.whl /srv/packages/alpha/alpha-1.2-py3-none-any.whl;"
        f"systemctl start {UNIT}"
    )
    for mirror in mirrors:
        mirror.shell.check_output(f"systemctl start {UNIT}")
        told.synced[mirror.name] = sorted(files_of(mirror.shell, "alpha"))

    for mirror in mirrors:
        mirror.shell.check_output(
            f"cp -a /opt/mirrorfleet/0.1.0 /opt/mirrorfleet/0.0.9;"
            f"cp -a /opt/bandersnatch/{BANDERSNATCH[mirror.name]} /opt/bandersnatch/{FORMER[mirror.name]}"
        )
    outcome = scenario.play(playbook="rollback.yml")
    assert outcome.code == 0, outcome.said
    look("rolled back")

    site = "/opt/{}/{}/lib/python3*/site-packages"
    for mirror, tamper in zip(
        mirrors,
        (
            "sed -i '$a # tampered' " + site.format("bandersnatch", "8.2.0") + "/bandersnatch/main.py",
            "rm " + site.format("mirrorfleet", "0.1.0") + "/mirrorfleet/sync/publish.py",
        ),
        strict=True,
    ):
        mirror.shell.check_output(
            f"{tamper} && systemctl disable --quiet --now mirror-sync.timer &&"
            "sed -i s/ProtectSystem=strict/ProtectSystem=false/ /etc/systemd/system/mirror-sync.service &&"
            "sed -i s/alpha/gamma/ /etc/mirrorfleet/bandersnatch.conf"
        )
    scenario.converge()
    look("as declared")
    return told


def test_what_is_new_upstream_comes_with_the_next_sync(story, me):
    assert "alpha-1.2-py3-none-any.whl" in story.synced[me.name]


def test_rollback_is_a_change_of_links_and_takes_our_filters_back(story, me):
    assert story.links["rolled back", me.name] == ["0.0.9", FORMER[me.name], "0.0.9"]


def test_what_was_tampered_with_is_repaired_by_the_next_converge(
    story, me, host, scenario, confined, attempts
):
    assert story.links["as declared", me.name] == ["0.1.0", BANDERSNATCH[me.name], "0.1.0"]
    test_the_programs_are_the_pinned_ones(me, host)
    assert host.run(
        "grep -q '^# tampered$' /opt/bandersnatch/current/lib/python3*/site-packages/bandersnatch/main.py"
    ).failed
    assert "alpha" in host.file("/etc/mirrorfleet/bandersnatch.conf").content_string
    test_the_unit_may_write_its_trees_and_nothing_else(host, confined, attempts)
    test_the_timer_runs_at_a_moment_of_each_hosts_own(host, scenario)
    host.check_output(f"systemctl start {UNIT}")
    test_the_newest_release_of_the_selected_projects_is_served_as_the_origin_has_it(me, host, scenario)
