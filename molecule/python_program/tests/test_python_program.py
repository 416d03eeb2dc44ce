"""What is installed runs and is exactly what its lock says, through updates, refusals, harm and the way back.

The story is played once on both hosts; each test looks at one moment of it on one host.
"""

import re
from dataclasses import dataclass, field

import pytest

GREET = "/opt/greeter/current/bin/python -c 'import greeter; print(greeter.VERSION)'"
MODULE = "/opt/greeter/1.0/lib/python3*/site-packages/greeter/__init__.py"
# What is installed, which of it is current, and whether that runs.
LOOK = f"cd /opt/greeter && echo $(ls -A) $(readlink current) $({GREET})"
# No change of it goes unseen; bytecode comes and goes.
STATE = "cd /opt && find . -name __pycache__ -prune -o -printf '%p %y %l %T@ %m %u %g\\n' | sort | sha256sum"


@dataclass
class Story:
    seen: dict = field(default_factory=dict)  # by moment and host
    outcomes: dict = field(default_factory=dict)
    states: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(role):
    told, hosts = Story(), role.hosts.values()

    def look(moment, outcome=None):
        told.outcomes[moment] = outcome
        told.seen[moment] = {host.name: host.shell.check_output(LOOK) for host in hosts}
        told.states[moment] = {host.name: host.shell.check_output(STATE) for host in hosts}

    def install(**variables):
        return role.play(playbook="greeter.yml", **variables)

    look("first")
    look("unlocked", install(version="3.0"))
    for lock in (role.dir / "locks").glob("greeter-1.1-*"):
        wrong = role.dir / "wrong" / lock.name
        wrong.parent.mkdir(exist_ok=True)
        wrong.write_text(re.sub("sha256:..", "sha256:00", lock.read_text()))
    look("wrong hash", install(version="1.1", python_program_locks=str(role.dir / "wrong")))
    for lock in (role.dir / "wrong").iterdir():
        lock.write_text("greeter==1.1\n")
    look("no hash", install(version="1.1", python_program_locks=str(role.dir / "wrong")))
    for host in hosts:
        host.shell.check_output(f"sed -i s/1.0/forged/ {MODULE} && chmod -R go+w /opt/greeter/1.0/bin")
    look("forged")
    look("mended", install())
    look("updated", install(version="1.1"))
    look("updated again", install(version="2.0"))
    look("back", role.play(playbook="back.yml", version="1.1"))
    return told


def test_the_version_runs_by_its_current_link(story, me):
    assert story.seen["first"][me.name] == "1.0 current 1.0 1.0"


def test_everybody_may_run_it_and_only_root_may_change_it(story, host):
    """As it is at the end of the story."""
    assert host.check_output("runuser -u nobody -- %s" % GREET) == "1.1"  # noqa: UP031 the command has its own quotes
    others = "find /opt/greeter /opt/mirrorfleet ! -type l ( ! -user root -o ! -group root -o -perm /022 )"
    assert host.check_output(re.sub(r"([()!])", r"\\\1", others)) == ""


def test_a_version_without_a_lock_is_refused_before_anything_is_changed(story, me):
    outcome = story.outcomes["unlocked"]
    assert outcome.code != 0 and outcome.changed[me.name] == 0
    said = " ".join(outcome.said.split())
    assert f"{me.name}: there is no lock file greeter-3.0-{me.name}.txt" in said
    assert f"make lock PROGRAMS=greeter-3.0-{me.name}" in said
    assert story.states["unlocked"] == story.states["first"]


@pytest.mark.parametrize(
    ("moment", "words"),
    [("wrong hash", "DO NOT MATCH THE HASHES"), ("no hash", "not an exact version with a hash")],
)
def test_what_does_not_fit_its_lock_is_not_installed(story, me, moment, words):
    outcome = story.outcomes[moment]
    assert outcome.code != 0
    assert words in outcome.said
    assert story.seen[moment][me.name] == story.seen["first"][me.name]


def test_what_was_changed_since_is_installed_anew(story, me):
    assert story.seen["forged"][me.name].endswith("forged")
    assert story.seen["mended"][me.name] == "1.0 current 1.0 1.0"


def test_an_update_keeps_the_former_version_and_no_older_one(story, me):
    assert story.seen["updated"][me.name] == "1.0 1.1 current 1.1 1.1"
    assert story.seen["updated again"][me.name] == "1.1 2.0 current 2.0 2.0"


def test_the_way_back_is_one_link(story, me):
    assert story.seen["back"][me.name] == "1.1 2.0 current 1.1 1.1"
    assert story.outcomes["back"].changed[me.name] == 1


def test_our_own_program_is_that_of_this_checkout(story, host, role):
    run = "/opt/mirrorfleet/current/bin/python -c 'import mirrorfleet; print(mirrorfleet.__version__)'"
    assert host.check_output(run) == "0.1.0"
    (wheel,) = (role.dir / "wheels").iterdir()
    assert host.check_output("ls -A /opt/mirrorfleet/dist") == wheel.name
    assert (
        host.check_output("/opt/mirrorfleet/current/bin/python -m pip list --format freeze | grep -c greeter")
        == "1"
    )
