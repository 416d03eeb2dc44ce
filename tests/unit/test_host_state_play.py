"""host_state in a real ansible-playbook on this machine: what rests on Ansible's behaviour is tested with Ansible."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
HOUSE = Path(__file__).parents[2]
OWNER = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}

Task = dict[str, Any]


class Outcome:
    def __init__(self, run: subprocess.CompletedProcess[str]) -> None:
        self.code = run.returncode
        self.said = run.stdout + run.stderr
        recap = re.search(r"ok=(\d+)\s+changed=(\d+)", run.stdout)
        self.changed = int(recap[2]) if recap else None
        self.handlers = re.findall(r"RUNNING HANDLER \[(.+?)\]", run.stdout)


class House:
    """A playbook with one role, run against localhost with the house's own ansible.cfg."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.role = root / "roles/tried"
        for part in ("tasks", "handlers", "templates", "files"):
            (self.role / part).mkdir(parents=True)
        (root / "target").mkdir()
        self.target = root / "target"

    def file(self, name: str, **further: Any) -> Task:
        return {"path": str(self.target / name), "mode": "0640"} | OWNER | further

    def state_of_target(self) -> dict[str, tuple[bytes, int, int, int]]:
        """With the time of the last change of each inode, which nothing can set back."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_ino, path.stat().st_ctime_ns)
            for path in self.target.iterdir()
        }

    def play(self, tasks: list[Task], handlers: list[Task], *arguments: str, **play: Any) -> Outcome:
        (self.role / "tasks/main.yml").write_text(json.dumps(tasks))
        (self.role / "handlers/main.yml").write_text(json.dumps(handlers))
        variables = {"host_state_directory": str(self.root / "state")} | play.pop("vars", {})
        book = [{"hosts": "localhost", "gather_facts": False, "roles": ["tried"], "vars": variables} | play]
        (self.root / "play.yml").write_text(json.dumps(book))
        command = [
            sys.executable,
            "-m",
            "ansible",
            "playbook",
            "-i",
            "localhost,",
            "-c",
            "local",
            *arguments,
            "play.yml",
        ]
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"),
            "ANSIBLE_INVENTORY_ENABLED": "host_list",
            "ANSIBLE_ROLES_PATH": str(self.root / "roles"),
            "ANSIBLE_LOCAL_TEMP": str(self.root / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
        }
        run = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        return Outcome(run)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def handlers(*names: str, settle: bool = True, first: Callable[[str], Task] | None = None) -> list[Task]:
    found: list[Task] = []
    for name in names:
        act = first(name) if first else {"ansible.builtin.debug": {"msg": f"ran {name}"}}
        found.append({"name": f"act {name}", "listen": name} | act)
        if settle:
            found.append({"name": f"settle {name}", "listen": name, "host_state": {"settled": [name]}})
    return found


def acted(outcome: Outcome) -> list[str]:
    return [name.split(" : act ")[1] for name in outcome.handlers if " : act " in name]


def two_files(house: House) -> list[Task]:
    return [
        {
            "name": "Declared",
            "host_state": {
                "files": [
                    house.file("a", content="a\n", notify=["one", "both"]),
                    house.file("b", content="b\n", notify=["two", "both"]),
                    house.file("c", content="c\n"),
                ]
            },
        }
    ]


def test_only_the_handlers_of_changed_files_run_and_a_second_run_changes_nothing(house: House) -> None:
    reacting = handlers("one", "two", "both")
    first = house.play(two_files(house), reacting)
    assert acted(first) == ["one", "two", "both"], first.said
    assert (house.target / "a").read_text() == "a\n"
    second = house.play(two_files(house), reacting)
    assert (second.code, second.changed, second.handlers) == (0, 0, [])
    (house.target / "b").write_text("tampered\n")
    (house.target / "c").write_text("tampered\n")
    third = house.play(two_files(house), reacting)
    assert acted(third) == ["two", "both"], third.said


def test_check_mode_reports_and_notifies_but_changes_nothing(house: House) -> None:
    reacting = handlers("one", "two", "both")
    house.play(two_files(house), reacting)
    (house.target / "a").write_text("tampered\n")
    (house.target / "b").chmod(0o666)
    before = house.state_of_target()
    outcome = house.play(two_files(house), reacting, "--check", "--diff")
    assert outcome.code == 0, outcome.said
    assert acted(outcome) == ["one", "two", "both"]
    for line in ("-tampered", "+a", "-mode: 0666", "+mode: 0640"):
        assert line in outcome.said.splitlines()
    assert house.state_of_target() == before
    assert not list((house.root / "state").rglob("owed/*"))


def test_a_role_that_is_only_asked_tells_what_it_would_change(house: House) -> None:
    reacting = handlers("one", "two", "both")
    due = str([str(house.target / name) for name in "abc"])
    # Of several tasks together, and each name once.
    tasks = [
        *two_files(house),
        *two_files(house),
        {"assert": {"that": f"ansible_facts.host_state_due == {due}"}},
    ]
    asks = {"host_state_asks": "{{ ansible_role_name == 'tried' }}"}
    outcome = house.play(tasks, reacting, vars=asks)
    assert (outcome.code, outcome.changed, acted(outcome)) == (0, 0, []), outcome.said
    assert house.state_of_target() == {} and not list((house.root / "state").rglob("*"))
    # A person who wants to see what would be sees it.
    outcome = house.play(tasks, reacting, "--check", "--diff", vars=asks)
    assert outcome.changed == 2 and "+a" in outcome.said.splitlines() and acted(outcome) == [], outcome.said
    assert acted(house.play(two_files(house), reacting)) == ["one", "two", "both"]


def test_a_handler_that_does_not_exist_fails_as_in_stock_ansible(house: House) -> None:
    outcome = house.play(two_files(house), handlers("one", "two"))
    assert outcome.code != 0
    assert "The requested handler 'both' was not found" in outcome.said


def test_the_notify_of_the_task_itself_still_works(house: House) -> None:
    [task] = two_files(house)
    outcome = house.play([task | {"notify": "whole"}], handlers("one", "two", "both", "whole"))
    assert acted(outcome) == ["one", "two", "both", "whole"], outcome.said


def test_in_a_loop_only_the_changed_round_notifies(house: House) -> None:
    task = {
        "name": "Declared",
        "host_state": {"files": [house.file("{{ item }}", content="x", notify=["handler {{ item }}"])]},
        "loop": ["a", "b"],
    }
    reacting = handlers("handler a", "handler b")
    house.play([task], reacting)
    (house.target / "b").unlink()
    assert acted(house.play([task], reacting)) == ["handler b"]


# --- half-failed runs -----------------------------------------------------------------------------


def test_a_play_that_died_before_its_handlers_is_completed_by_the_next(house: House) -> None:
    dies = {"ansible.builtin.fail": {"msg": "dies here"}}
    reacting = handlers("one", "two", "both")
    died = house.play([*two_files(house), dies], reacting)
    assert (died.code != 0, died.handlers) == (True, [])
    assert (house.target / "a").read_text() == "a\n"
    again = house.play(two_files(house), reacting)
    assert acted(again) == ["one", "two", "both"], again.said
    assert house.play(two_files(house), reacting).changed == 0


def test_a_task_that_failed_half_way_is_completed_by_the_next(house: House) -> None:
    blocked = house.target / "blocked"
    (blocked / "full").mkdir(parents=True)
    [task] = two_files(house)
    task["host_state"]["links"] = [{"path": str(blocked), "target": "a", "notify": ["link"]}]
    reacting = handlers("one", "two", "both", "link")
    failed = house.play([task], reacting)
    assert failed.code != 0
    assert (
        f"{blocked} is a directory that is not empty, and is not removed; move it away by hand" in failed.said
    )
    assert (house.target / "a").exists()
    (blocked / "full").rmdir()
    again = house.play([task], reacting)
    assert acted(again) == ["one", "two", "both", "link"], again.said
    assert house.play([task], reacting).changed == 0


def test_a_handler_that_failed_is_notified_again_until_it_succeeds(house: House) -> None:
    fails = handlers("one", "two", "both", first=lambda name: {"ansible.builtin.fail": {"msg": name}})
    works = handlers("one", "two", "both")
    assert house.play(two_files(house), fails).code != 0
    assert acted(house.play(two_files(house), fails)) == ["one"]
    assert acted(house.play(two_files(house), works)) == ["one", "two", "both"]
    assert house.play(two_files(house), works).changed == 0


def test_a_handler_nobody_settles_shows_as_a_change_for_ever(house: House) -> None:
    """So an idempotence test finds the handler that forgot to settle, and the diff says why."""
    reacting = handlers("one", "two", "both", settle=False)
    house.play(two_files(house), reacting)
    again = house.play(two_files(house), reacting, "--diff")
    assert again.changed == 1
    assert f"-owed: not settled since {house.target}/a changed" in again.said


# --- secrets --------------------------------------------------------------------------------------


def test_a_secret_appears_nowhere(house: House) -> None:
    """Not when it is made, changed, refused by its validator, or in the way; not with -vvv and --diff."""

    def secret(**further: Any) -> list[Task]:
        item = house.file("key", content="{{ token }}\n", secret=True, notify=["one"], **further)
        return [{"name": "Declared", "host_state": {"files": [item]}, "register": "found"}]

    told = [{"name": "Told", "ansible.builtin.debug": {"var": "found"}}]
    said = ""
    for token, further in (
        ("hunter2", {}),
        ("swordfish", {}),
        ("xyzzy-plugh", {"validate": "grep xyzzy /dev/null %s nothing"}),
    ):
        outcome = house.play(
            [*secret(**further), *told], handlers("one"), "-vvv", "--diff", vars={"token": token}
        )
        said += outcome.said
    assert outcome.code != 0
    assert "(hidden, the file is secret)" in said
    assert (house.target / "key").read_text() == "swordfish\n"
    assert "content: (secret, as declared)" in said
    for token in ("hunter2", "swordfish", "xyzzy-plugh"):
        assert token not in said


# --- rendering ------------------------------------------------------------------------------------


def test_templates_render_byte_for_byte_as_ansible_renders_them(house: House) -> None:
    (house.role / "templates/part.j2").write_text("part of {{ template_path }}\n")
    (house.role / "templates/sub").mkdir()
    (house.role / "templates/sub/whole.j2").write_text(
        "{# comment #}\n{% if true %}\ntrimmed\n{% endif %}\n"
        "  {% for n in [1, 2] %}\n  {{ n }} {{ v }}\n  {% endfor %}\n"
        "{% include 'part.j2' %}\n{{ template_destpath | basename }} {{ ansible_managed }} \\n é\n\n"
    )
    (house.role / "templates/native.j2").write_text("{{ [1, 2] }}")
    tasks: list[Task] = [
        {
            "host_state": {
                "files": [
                    house.file("ours/whole", template="sub/whole.j2", vars={"v": "{{ w }}"}),
                    house.file("ours/native", template="native.j2"),
                ],
                "directories": [house.file("ours", mode="0755")],
            },
            "vars": {"w": "x"},
        },
        {"ansible.builtin.file": {"path": str(house.target / "stock"), "state": "directory"}},
        *(
            {
                "ansible.builtin.template": {"src": source, "dest": str(house.target / "stock" / name)},
                "vars": {"v": "x"},
            }
            for source, name in (("sub/whole.j2", "whole"), ("native.j2", "native"))
        ),
    ]
    outcome = house.play(tasks, [])
    assert outcome.code == 0, outcome.said
    for name in ("whole", "native"):
        assert (house.target / "ours" / name).read_bytes() == (house.target / "stock" / name).read_bytes()
    assert "part of" in (house.target / "ours/whole").read_text()


def test_src_is_binary_safe_and_relative_to_the_role(house: House) -> None:
    every_byte = bytes(range(256))
    (house.role / "files/blob").write_bytes(every_byte)
    outcome = house.play([{"host_state": {"files": [house.file("blob", src="blob")]}}], [], "--diff")
    assert outcome.code == 0, outcome.said
    assert (house.target / "blob").read_bytes() == every_byte
    assert "binary" in outcome.said


def test_what_cannot_be_rendered_is_named_and_nothing_is_changed(house: House) -> None:
    (house.role / "templates/bad.j2").write_text("{{ never_defined }}\n")
    files = [
        house.file("a", content="x"),
        house.file("b", template="bad.j2"),
        house.file("c", src="no-such-file"),
    ]
    outcome = house.play([{"host_state": {"files": files}}], [])
    assert outcome.code != 0
    assert f"{house.target}/b: cannot be rendered, nothing was changed" in outcome.said
    assert "never_defined" in outcome.said
    assert list(house.target.iterdir()) == []
    outcome = house.play([{"host_state": {"files": files[2:]}}], [])
    assert f"{house.target}/c: cannot be rendered, nothing was changed" in outcome.said


def test_the_documentation_is_found_by_ansible_doc(house: House) -> None:
    command = [sys.executable, "-m", "ansible", "doc", "--type", "module", "--json", "host_state"]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"),
        "ANSIBLE_INVENTORY_ENABLED": "host_list",
    }
    run = subprocess.run(
        command, cwd=house.root, env=environment, capture_output=True, text=True, check=False
    )
    documented = json.loads(run.stdout)["host_state"]
    assert documented["doc"]["has_action"] is True
    assert documented["examples"]
    assert documented["return"].keys() == {"drift", "notified"}


def test_a_wrong_declaration_fails_the_task_in_words(house: House) -> None:
    outcome = house.play([{"host_state": {"files": [{"path": "/etc/x", "mode": 420}]}}], [])
    assert outcome.code != 0
    assert "files[0] (/etc/x): needs exactly one of template, content, src" in outcome.said
    assert 'mode is not valid; it has to be an octal mode in quotes, such as "0644"' in outcome.said
    assert "Traceback" not in outcome.said
