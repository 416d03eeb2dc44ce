"""host_state on real hosts: what is tampered with is found, reported, repaired; and nothing else is touched.

The story is played once on all hosts, two at a time; each test looks at one part of it on one host.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import testinfra

HOUSE = Path(__file__).parents[3]
INVENTORY = HOUSE / "molecule/inventory.py"
COMMAND = [
    sys.executable,
    "-m",
    "ansible",
    "playbook",
    "-i",
    INVENTORY,
    HOUSE / "molecule/host_state/converge.yml",
]
# Not molecule's own settings: its colours, for one, would be in the text that is looked at.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
ENVIRONMENT |= {
    "ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"),
    "ANSIBLE_INVENTORY_ENABLED": "script",
    "MOLECULE_SCENARIO_NAME": "host_state",
}
SECRET = "correct-horse-battery-staple"
NEW_SECRET = "tr0ub4dor-and-three"

# What is done to a host behind the playbook's back, and what has to be reported for it: kind, name, property.
# `sneak FILE TEXT` overwrites a file, keeps its size where TEXT has it, and puts its modification time back.
SNEAK = 'sneak() { t=$(mktemp); touch -r "$1" "$t"; printf "$2" >"$1"; touch -r "$t" "$1"; rm "$t"; }\n'
TAMPERED = {
    "content with its time put back": (
        r"sneak /etc/tried/content.conf 'host = x\n'",
        [("file", "/etc/tried/content.conf", "content")],
    ),
    "content of the same size with its time put back": (
        r"sneak /etc/tried/mode.conf 'MODE\n'",
        [("file", "/etc/tried/mode.conf", "content")],
    ),
    "owner": ("chown root /etc/tried/owner.conf", [("file", "/etc/tried/owner.conf", "owner")]),
    "group and mode": (
        "chgrp games /etc/sudoers.d/tried; chmod 0400 /etc/sudoers.d/tried",
        [("file", "/etc/sudoers.d/tried", "group"), ("file", "/etc/sudoers.d/tried", "mode")],
    ),
    "a secret's content and mode": (
        "echo 'token = stolen' >/etc/tried/secret.conf; chmod 0644 /etc/tried/secret.conf",
        [("file", "/etc/tried/secret.conf", "content"), ("file", "/etc/tried/secret.conf", "mode")],
    ),
    "a file replaced by a link to its copy": (
        "cp -a /etc/tried/link.conf /var/tmp/copy; ln -sf /var/tmp/copy /etc/tried/link.conf",
        [("file", "/etc/tried/link.conf", "state")],
    ),
    "a link's target": ("ln -sfn /etc/passwd /etc/tried/current", [("link", "/etc/tried/current", "state")]),
    "unwanted paths": (
        "touch /etc/tried/unwanted; mkdir -p /etc/tried/unwanted.d/x",
        [("absent", "/etc/tried/unwanted", "state"), ("absent", "/etc/tried/unwanted.d", "state")],
    ),
    "a directory's mode and owner": (
        "chmod 0777 /etc/tried; chown games /srv/tried",
        [("directory", "/etc/tried", "mode"), ("directory", "/srv/tried", "owner")],
    ),
    "a directory replaced by a link": (
        "rmdir /srv/tried/inner; ln -s /root /srv/tried/inner",
        [("directory", "/srv/tried/inner", "state")],
    ),
    "a package": ("dpkg --remove tree", [("package", "tree", "state")]),
    "a group's number": ("groupmod -g 961 tried-extra", [("group", "tried-extra", "gid")]),
    "a user's shell, home and comment": (
        "usermod -s /bin/bash -d /tmp -c Somebody tried",
        [("user", "tried", "shell"), ("user", "tried", "home"), ("user", "tried", "comment")],
    ),
    "supplementary groups, one more and one less": (
        "gpasswd -a tried games; gpasswd -d tried adm",
        [("user", "tried", "groups")],
    ),
    "a failed unit": (
        "systemctl kill --signal=KILL tried-a.service",
        [("unit", "tried-a.service", "active")],
    ),
    "a unit stopped and disabled": (
        "systemctl disable --now tried-b.service",
        [("unit", "tried-b.service", "enabled"), ("unit", "tried-b.service", "active")],
    ),
    "a unit masked until reboot": (
        "systemctl mask --runtime tried-e.service; systemctl stop tried-e.service",
        [("unit", "tried-e.service", "masked"), ("unit", "tried-e.service", "active")],
    ),
    "a unit started and enabled": (
        "systemctl enable --now tried-c.service",
        [("unit", "tried-c.service", "enabled"), ("unit", "tried-c.service", "active")],
    ),
    "a masked unit": (
        "systemctl stop tried-d.service; systemctl mask tried-d.service",
        [("unit", "tried-d.service", "masked"), ("unit", "tried-d.service", "active")],
    ),
    "the live firewall": (
        "nft delete element inet tried blocked '{ 192.0.2.2 }'; nft add rule inet tried input tcp dport 8080 drop",
        [("firewall", "inet tried", "ruleset")],
    ),
    # Last, for what systemctl does above makes it read all units again.
    "a unit's file, not yet loaded": (
        "echo '# more' >>/etc/systemd/system/tried-a.service",
        [
            ("file", "/etc/systemd/system/tried-a.service", "content"),
            ("unit", "tried-a.service", "definition"),
        ],
    ),
}
CONCERNED = {"content", "mode", "owner", "secret", "link", "current", "unwanted", "unit"}

# Everything the declaration speaks of, in one text.
SNAPSHOT = r"""
for path in /etc/tried /srv/tried; do
    find $path -printf '%p %y %l %m %u %g %i %C@\n' | sort; find $path -type f -exec sha256sum {} + | sort
done
stat -c '%n %a %U %G %i %Z' /etc/sudoers.d/tried /{etc,usr/local/lib}/systemd/system/tried-*.service
getent passwd tried; getent group tried tried-extra; id tried; dpkg -l tree nftables | tail -2
properties=LoadState,ActiveState,UnitFileState,NeedDaemonReload,ActiveEnterTimestampMonotonic
systemctl show -p $properties tried-{a,b,c,d,e}.service
nft -a -s list table inet tried; ls /var/lib/host_state/owed
"""


@dataclass
class Run:
    code: int
    said: str
    changed: dict[str, int]
    found: dict[str, dict]
    acted: dict[str, set[str]] = field(default_factory=dict)


def hosts():
    return {
        host.backend.get_hostname(): host
        for host in testinfra.get_hosts(["ansible://hosts"], ansible_inventory=str(INVENTORY))
    }


def on_each(script: str, check: bool = True) -> dict[str, str]:
    said = {}
    for name, host in hosts().items():
        result = host.run("sudo bash -c %s", script)
        assert result.rc == 0 or not check, f"{name}: {script}: {result.stderr}"
        said[name] = result.stdout
    return said


def play(folder: Path, *arguments: str, **variables: object) -> Run:
    report = folder / f"report-{len(list(folder.iterdir()))}"
    report.mkdir()
    on_each("rm -f /var/tmp/tried-*")
    run = subprocess.run(
        [*COMMAND, *arguments, "-e", json.dumps({"tried_report": str(report)} | variables)],
        env=ENVIRONMENT, cwd=HOUSE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", run.stdout, re.MULTILINE)
    return Run(
        code=run.returncode,
        said=run.stdout + run.stderr,
        changed={name: int(count) for name, count in recap},
        found={path.stem: json.loads(path.read_text()) for path in report.glob("*.json")},
        acted={
            name: {entry.removeprefix("tried-") for entry in listing.split()}
            for name, listing in on_each("cd /var/tmp; ls -d tried-* 2>/dev/null", check=False).items()
        },
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@dataclass
class Story:
    tampered: dict[str, str]
    check: Run
    checked: dict[str, str]
    repair: Run
    after: Run
    journal: dict[str, str]


@pytest.fixture(scope="session")
def story(folder: Path) -> Story:
    on_each(SNEAK + "\n".join(script for script, _ in TAMPERED.values()))
    tampered = on_each(SNAPSHOT)
    check = play(folder, "--check", "--diff", "-vvv", tried_token=NEW_SECRET)
    checked = on_each(SNAPSHOT)
    repair = play(folder, "--diff", "-vvv", tried_token=NEW_SECRET)
    journal = on_each("journalctl --no-pager --output cat")
    return Story(tampered, check, checked, repair, play(folder, tried_token=NEW_SECRET), journal)


def reported(run: Run, host) -> set[tuple[str, str, str]]:
    drift = run.found[host.backend.get_hostname()]["drift"]
    return {(entry["kind"], entry["name"], entry["what"]) for entry in drift}


@pytest.mark.parametrize("tampering", TAMPERED)
def test_tampering_is_found_in_check_mode(host, story: Story, tampering: str) -> None:
    assert story.check.code == 0, story.check.said
    assert set(TAMPERED[tampering][1]) <= reported(story.check, host)


def test_nothing_else_is_reported(host, story: Story) -> None:
    expected = {entry for _, entries in TAMPERED.values() for entry in entries}
    assert reported(story.check, host) == expected
    assert expected <= reported(story.repair, host)


def test_check_mode_changes_nothing_but_notifies(host, story: Story) -> None:
    name = host.backend.get_hostname()
    assert story.checked[name] == story.tampered[name]
    assert set(story.check.found[name]["notified"]) == CONCERNED
    assert story.check.acted[name] == set()


@pytest.mark.parametrize(
    "line",
    ["-host = x", "+word = one", "-mode: 0400", "+mode: 0440", "-groups: games tried-extra", "+groups: adm tried-extra",
     "-state: link to /etc/passwd", "+state: link to content.conf", "-masked: yes", "-\t\ttcp dport 8080 drop",
     "+content: (secret, as declared)", "-state: absent", "+state: installed"],
)  # fmt: skip
def test_the_diff_shows_each_item(story: Story, line: str) -> None:
    assert line in story.check.said.splitlines()


def test_the_repair_leaves_nothing_that_differs(host, story: Story) -> None:
    name = host.backend.get_hostname()
    assert story.repair.code == 0, story.repair.said
    assert story.repair.changed[name] > 0
    assert (story.after.code, story.after.changed[name], story.after.found[name]["drift"]) == (0, 0, [])


def test_the_repair_ran_the_handlers_concerned_and_no_others(host, story: Story) -> None:
    name = host.backend.get_hostname()
    assert story.repair.acted[name] == CONCERNED
    assert story.after.acted[name] == set()


def test_the_host_is_as_declared_in_its_own_words(host, story: Story) -> None:
    """Independently of what host_state says of its own work."""
    with host.sudo():
        user = host.user("tried")
        assert (user.shell, user.home, user.gecos) == ("/usr/sbin/nologin", "/srv/tried", "Tried by molecule")
        assert set(user.groups) == {"tried", "adm", "tried-extra"}
        assert host.group("tried").gid == 950
        assert host.package("tree").is_installed
        for name, mode, owner in (
            ("content.conf", 0o644, "root"),
            ("secret.conf", 0o600, "root"),
            ("owner.conf", 0o644, "tried"),
        ):
            file = host.file(f"/etc/tried/{name}")
            assert (file.is_symlink, file.mode, file.user) == (False, mode, owner)
        assert host.file("/etc/tried/secret.conf").content_string == f"token = {NEW_SECRET}\n"
        assert host.file("/etc/tried/link.conf").is_file
        assert not host.file("/etc/tried/link.conf").is_symlink
        assert host.file("/etc/tried/current").linked_to == "/etc/tried/content.conf"
        assert not host.file("/etc/tried/unwanted").exists
        assert not host.file("/srv/tried/inner").is_symlink
        assert host.file("/srv/tried/inner").mode == 0o2755
        for letter in "abde":
            assert host.service(f"tried-{letter}").is_running
            assert host.service(f"tried-{letter}").is_enabled
        assert not host.service("tried-c").is_running
        assert not host.service("tried-c").is_enabled
        assert host.check_output("systemctl show -p NeedDaemonReload --value tried-a.service") == "no"
        live = host.check_output("nft list table inet tried")
        assert "192.0.2.2" in live
        assert "8080" not in live


def test_what_packets_did_to_a_dynamic_set_is_no_drift(host, story: Story) -> None:
    """The set was empty when it was loaded; our own SSH connections have filled it since."""
    with host.sudo():
        assert "elements" in host.check_output("nft list set inet tried seen")
    assert story.after.changed[host.backend.get_hostname()] == 0


def test_secrets_are_in_no_output_and_in_no_journal(host, story: Story) -> None:
    for secret in (SECRET, NEW_SECRET):
        assert secret not in story.check.said + story.repair.said
        assert secret not in story.journal[host.backend.get_hostname()]
    assert "stolen" not in story.check.said + story.repair.said


# --- runs that fail or die half way ---------------------------------------------------------------


@pytest.fixture(scope="session")
def halves(folder: Path, story: Story) -> tuple[Run, Run, Run]:
    """A run that fails at its last step, after files were changed; the same again without the fault; once more."""
    on_each("systemctl stop tried-d.service")
    failed = play(folder, tried_token=NEW_SECRET, tried_word="three", tried_broken=True)
    completed = play(folder, tried_token=NEW_SECRET, tried_word="three")
    return failed, completed, play(folder, tried_token=NEW_SECRET, tried_word="three")


def test_a_run_that_fails_half_way_says_where(host, halves: tuple[Run, Run, Run]) -> None:
    failed, _, _ = halves
    name = host.backend.get_hostname()
    assert failed.code != 0
    assert "unit tried-d.service: active is failed (failed), declared is started" in failed.found[name]["msg"]
    assert ("file", "/etc/tried/content.conf", "content") in reported(failed, host)
    assert failed.acted[name] == set()


def test_the_next_run_completes_it_with_the_handlers_it_owed(host, halves: tuple[Run, Run, Run]) -> None:
    _, completed, again = halves
    name = host.backend.get_hostname()
    assert completed.code == 0, completed.said
    assert ("handler", "content", "owed") in reported(completed, host)
    assert completed.acted[name] == {"content"}
    assert host.service("tried-d").is_running
    assert (again.changed[name], again.acted[name]) == (0, set())


@pytest.fixture(scope="session")
def killed(folder: Path, halves: tuple[Run, Run, Run]) -> list[Run]:
    """Runs killed after a while, each completed by the next; then one more."""
    runs = []
    variables = {"tried_token": NEW_SECRET}
    for seconds in ("1.5", "2.5"):
        variables["tried_word"] = f"killed-{seconds}"
        on_each(
            "systemctl disable --now tried-a.service; nft flush chain inet tried input; rm /etc/tried/mode.conf"
        )
        subprocess.run(
            ["timeout", "--signal=KILL", seconds, *COMMAND, "-e", json.dumps(variables)],
            env=ENVIRONMENT, cwd=HOUSE, capture_output=True, check=False,
        )  # fmt: skip
        runs.append(play(folder, **variables))
    return [*runs, play(folder, **variables)]


def test_a_run_killed_at_any_moment_is_completed_by_the_next(host, killed: list[Run]) -> None:
    name = host.backend.get_hostname()
    assert [run.code for run in killed] == [0, 0, 0]
    assert killed[-1].changed[name] == 0
    assert "word = killed-2.5" in host.check_output("sudo cat /etc/tried/content.conf")
    assert host.service("tried-a").is_running


@pytest.fixture(scope="session")
def interrupted(folder: Path, killed: list[Run]) -> Run:
    """tree unpacked but not configured, as a machine that lost power in the midst of an upgrade leaves it."""
    on_each("cd $(mktemp -d) && chmod 0755 . && apt-get -q download tree && dpkg --unpack tree_*.deb")
    assert set(on_each("dpkg-query -W -f '${db:Status-Status}' tree").values()) == {"unpacked"}
    return play(folder, tried_token=NEW_SECRET, tried_word="killed-2.5")


def test_an_interrupted_dpkg_is_completed(host, interrupted: Run) -> None:
    assert interrupted.code == 0, interrupted.said
    assert reported(interrupted, host) == {("package", "tree", "state"), ("package", "dpkg", "interrupted")}
    assert host.run("dpkg-query -W -f '${db:Status-Status}' tree").stdout == "installed"


def test_no_temporary_file_is_left(host, killed: list[Run]) -> None:
    leftovers = host.check_output("sudo find /etc /srv /usr/local -name %s", ".*.host_state")
    assert shlex.split(leftovers) == []
