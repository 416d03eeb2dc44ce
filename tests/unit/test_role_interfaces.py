"""What a role offers is what it documents, is named after it, and ends at its own door."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from plugin_utils.inputs import RENAMED

HOUSE = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (HOUSE / "roles").iterdir() if (path / "tasks").is_dir())
UNSET = object()


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


def defaults(role: str) -> dict[str, Any]:
    return load(HOUSE / "roles" / role / "defaults/main.yml") or {}


def specs(role: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(HOUSE / "roles" / role / "meta/argument_specs.yml")[
        "argument_specs"
    ]
    return found


def yaml_files(role: str) -> list[Path]:
    return sorted(
        path
        for part in ("tasks", "handlers", "vars", "defaults")
        for path in (HOUSE / "roles" / role / part).glob("**/*.yml")
    )


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from mappings(child)


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_documents_every_input(role: str) -> None:
    entry_points = specs(role)
    assert "main" in entry_points
    for name, entry_point in entry_points.items():
        assert (HOUSE / "roles" / role / f"tasks/{name}.yml").exists(), f"entry point {name} has no task file"
        assert entry_point["options"].keys() == defaults(role).keys(), name
        assert entry_point["short_description"]


@pytest.mark.parametrize("role", ROLES)
def test_documented_defaults_are_the_real_ones(role: str) -> None:
    real = defaults(role)
    for name, option in specs(role)["main"]["options"].items():
        assert option["description"], name
        assert option["type"], name
        documented = option.get("default", UNSET)
        if documented is not UNSET:
            assert documented == real[name], name


@pytest.mark.parametrize("role", ROLES)
def test_every_default_has_a_comment_above_it(role: str) -> None:
    """Inputs that belong together, without an empty line between them, may share one."""
    path = HOUSE / "roles" / role / "defaults/main.yml"
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        if block != "---":
            assert block.removeprefix("---\n").startswith("# "), block


@pytest.mark.parametrize("role", ROLES)
def test_variables_are_named_after_the_role(role: str) -> None:
    for path in yaml_files(role):
        content = load(path) or {}
        named: set[str] = set(content) if path.parent.name in {"vars", "defaults"} else set()
        for node in mappings(content if path.parent.name in {"tasks", "handlers"} else []):
            included = (
                node.get("ansible.builtin.include_role") or node.get("ansible.builtin.import_role") or {}
            )
            theirs = f"{included.get('name', role)}_"
            named |= {name for name in node.get("vars", {}) if not name.startswith((theirs, "ansible_"))}
            named |= {node["register"]} if "register" in node else set()
            named |= set(node.get("ansible.builtin.set_fact", {})) - {"cacheable"}
            named |= (
                {node["loop_control"]["loop_var"]} if "loop_var" in node.get("loop_control", {}) else set()
            )
        wrong = {name for name in named if not name.startswith((f"{role}_", f"__{role}_"))}
        assert not wrong, f"{path.relative_to(HOUSE)}: {sorted(wrong)}"


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reaches_into_anothers_room(role: str) -> None:
    others = "|".join(other for other in ROLES if other != role)
    # Another role's files, and what only another role or the playbooks may know.
    forbidden = re.compile(rf"(?:\.\.|roles)/(?:{others})/|\b__(?:{others}|fleet)_\w+")
    for path in sorted((HOUSE / "roles" / role).rglob("*")):
        if path.is_file():
            found = forbidden.findall(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{path.relative_to(HOUSE)}: {found}"


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_names_inputs_that_exist_and_files_that_are_there(role: str) -> None:
    folder = HOUSE / "roles" / role
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {role}\n")
    assert len(text.splitlines()) < 60, "a README is a screen"
    named = set(re.findall(rf"\b{role}_\w+", text))
    assert named and named <= specs(role)["main"]["options"].keys()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (folder / target).exists(), target


@pytest.mark.parametrize("role", ROLES)
def test_the_readmes_example_gives_the_role_what_it_documents(role: str) -> None:
    text = (HOUSE / "roles" / role / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    uses = [
        node
        for node in mappings(yaml.safe_load(example))
        if role in (node.get("role"), node.get("ansible.builtin.import_role", {}).get("name"))
    ]
    assert any("vars" in use for use in uses)
    for use in uses:
        assert use.get("vars", {}).keys() <= specs(role)["main"]["options"].keys()


@pytest.mark.parametrize("role", ROLES)
def test_the_role_says_who_made_it_and_where_it_runs(role: str) -> None:
    meta = load(HOUSE / "roles" / role / "meta/main.yml")
    about = meta["galaxy_info"]
    assert (about["role_name"], about["license"]) == (role, "Apache-2.0")
    assert about["author"] and about["description"]
    assert about["platforms"] == [{"name": "Debian", "versions": ["bookworm", "trixie"]}]
    assert meta["dependencies"] == []


def test_inputs_of_former_names_are_told_with_names_that_there_are() -> None:
    known = {name for role in ROLES for name in defaults(role)}
    assert not known & RENAMED.keys()
    assert set(RENAMED.values()) <= known


KEY = {"public_key": "RWQ"}


@pytest.mark.parametrize(
    ("signing", "fits"),
    [
        (KEY | {"key": "~/list.sec"}, True),
        (KEY | {"key_on_host": "/etc/mirrorfleet/list.sec"}, True),
        (KEY | {"key_on_host": "/srv/tmp/list.sec"}, True),
        ({"key": "~/list.sec"}, False),
        (KEY, False),
        (KEY | {"key": "~/list.sec", "key_on_host": "/etc/mirrorfleet/list.sec"}, False),
        *[
            (KEY | {"key_on_host": f"{folder}/list.sec"}, False)
            for folder in ("/root", "/home/coordinator", "/run/user/1000", "/tmp", "/var/tmp")
        ],
    ],
)
def test_what_signs_the_lists_is_named_once_and_where_its_service_sees_it(
    signing: dict[str, str], fits: bool
) -> None:
    first = load(HOUSE / "roles/redirector/tasks/main.yml")[0]
    templar = Templar(DataLoader(), variables={"redirector_signing": signing})
    said = [
        templar.evaluate_conditional(trust_as_template(one))
        for one in first["ansible.builtin.assert"]["that"]
    ]
    assert all(said) == fits
