"""host_state on the control node: what a declaration may say, and what follows from the drift a host reports."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin_utils import host_state_declaration as declaring
from plugin_utils import host_state_drift as drifting

HOUSE = Path(__file__).parents[2]


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


action = load(HOUSE / "action_plugins/host_state.py", "host_state_action")


def complaint(arguments: object) -> str:
    with pytest.raises(AnsibleActionFail) as caught:
        declaring.parse(arguments)
    return str(caught.value)


FILE = {"path": "/etc/a", "content": "x"}

WRONG = [
    ({"file": []}, "unknown key file; allowed are packages, groups, users, directories, files"),
    ({"files": {}}, "files: has to be a list"),
    ({"files": ["/etc/a"]}, "files[0]: has to be a mapping with the keys path, template, content"),
    ({"files": [FILE, {"path": "/etc/b"}]}, "files[1] (/etc/b): needs exactly one of template, content, src"),
    ({"files": [FILE | {"src": "y"}]}, "files[0] (/etc/a): needs exactly one of template, content, src"),
    ({"files": [{"content": "x"}]}, "files[0]: path is missing; it is an absolute path"),
    (
        {"files": [FILE | {"owners": "x"}]},
        "files[0] (/etc/a): unknown key owners; allowed are path, template",
    ),
    (
        {"files": [FILE | {"mode": 420}]},
        "files[0] (/etc/a): mode is not valid; it has to be an octal mode in quotes",
    ),
    ({"files": [FILE | {"mode": "0999"}]}, "mode is not valid"),
    ({"files": [FILE | {"mode": "u=rw"}]}, "mode is not valid"),
    ({"files": [FILE | {"content": 5}]}, "content is not valid; it has to be a string; put it in quotes"),
    ({"files": [FILE | {"secret": "yes"}]}, "secret is not valid; it has to be true or false"),
    (
        {"files": [FILE | {"validate": "visudo -c"}]},
        "validate is not valid; it has to be a command with the word %s",
    ),
    ({"files": [FILE | {"validate": "sh -c 'x %s'"}]}, "validate is not valid"),
    ({"files": [FILE | {"notify": "reload"}]}, "notify is not valid; it has to be a list of names"),
    ({"files": [FILE | {"vars": ["a"]}]}, "vars is not valid"),
    ({"files": [FILE | {"owner": "a b"}]}, "owner is not valid"),
    ({"files": [FILE, FILE]}, "/etc/a: is declared in files and again in files; keep one"),
    ({"files": [FILE], "absent": ["/etc/a"]}, "/etc/a: is declared in files and again in absent; keep one"),
    (
        {"links": [{"path": "/etc/l", "target": "t"}], "files": [FILE | {"path": "/etc/l/x"}]},
        "lies below /etc/l",
    ),
    (
        {"absent": ["/srv/x"], "directories": [{"path": "/srv/x/y"}]},
        "/srv/x/y (directories): lies below /srv/x",
    ),
    ({"absent": ["/etc"]}, "path is not valid; it has to be a path at least two levels below /"),
    ({"directories": [{"path": "srv"}]}, "path is not valid; it has to be an absolute path"),
    ({"directories": [{"path": "/srv/../etc"}]}, "path is not valid"),
    ({"directories": [{"path": "/srv/"}]}, "path is not valid"),
    ({"directories": [{"path": "//srv"}]}, "path is not valid"),
    ({"directories": [{"path": "/srv/a\nb"}]}, "path is not valid"),
    ({"directories": [{"path": "/"}]}, "path is not valid"),
    (
        {"packages": ["nginx=1.2"]},
        "packages[0] (nginx=1.2): name is not valid; it has to be the name of a Debian",
    ),
    ({"packages": ["-y"]}, "name is not valid"),
    ({"packages": ["nginx", {"name": "nginx"}]}, "packages: nginx is declared twice; keep one"),
    ({"packages": [{"name": "nginx", "version": "1 2"}]}, "version is not valid"),
    ({"groups": [{"name": "a", "gid": "7"}]}, "gid is not valid; it has to be a whole number"),
    ({"groups": [{"name": "a", "gid": True}]}, "gid is not valid"),
    ({"users": [{"name": "a", "groups": "adm"}]}, "groups is not valid; it has to be a list of names"),
    (
        {"users": [{"name": "a", "comment": "x:y"}]},
        "comment is not valid; it has to be a line without colons",
    ),
    ({"users": ["mirror"]}, "users[0]: has to be a mapping"),
    (
        {"units": [{"name": "nginx"}]},
        "units[0] (nginx): name is not valid; it has to be a unit's name with its suffix",
    ),
    (
        {"units": [{"name": "a.service", "state": "running"}]},
        "state is not valid; it has to be one of started, stopped",
    ),
    (
        {"firewall": {"content": "x", "tables": []}},
        "firewall: tables is not valid; it has to be a list of at least",
    ),
    ({"firewall": {"content": "x", "tables": ["inet a; reboot"]}}, "tables is not valid"),
    ({"firewall": {"content": "x"}}, "firewall: tables is missing; it is a list of at least one table"),
    ({"firewall": {"tables": ["inet a"]}}, "firewall: needs exactly one of template, content"),
    ({"firewall": {"content": "x", "tables": ["inet a"], "trial_seconds": 5}}, "seconds from 10 to 600"),
    (
        {"firewall": {"content": "x", "tables": ["inet a"], "path": "/etc/a"}, "files": [FILE]},
        "/etc/a: is declared",
    ),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_a_wrong_declaration_is_refused_with_item_key_and_what_is_allowed(
    arguments: dict[str, Any], says: str
) -> None:
    assert says in complaint(arguments)


def test_every_problem_is_named_at_once() -> None:
    said = complaint({"packages": ["A"], "files": [FILE | {"mode": 5}], "nope": 1})
    assert [part in said for part in ("packages[0]", "files[0]", "unknown key nope")] == [True] * 3
    assert "nothing was changed" in said


def test_defaults_are_those_of_the_documentation() -> None:
    options = yaml.safe_load((HOUSE / "library/host_state.yml").read_text())["DOCUMENTATION"]["options"]
    sections = declaring.SECTIONS | {"firewall": declaring.FIREWALL}
    assert options.keys() == {*sections, "settled"}
    for title, section in sections.items():
        documented = options[title]["suboptions"]
        assert documented.keys() == section.keys.keys(), title
        for name, key in section.keys.items():
            assert documented[name].get("default") == key.default, f"{title}.{name}"
            assert documented[name].get("required", False) == key.required, f"{title}.{name}"


def test_short_forms_equal_long_ones() -> None:
    short = declaring.parse({"packages": ["nginx"], "groups": ["mirror"], "absent": ["/etc/a"]})
    long = declaring.parse(
        {"packages": [{"name": "nginx"}], "groups": [{"name": "mirror"}], "absent": [{"path": "/etc/a"}]}
    )
    assert short == long


def test_a_directory_may_hold_what_else_is_declared() -> None:
    declaring.parse(
        {"directories": [{"path": "/etc/d"}, {"path": "/etc/d/e"}], "files": [FILE | {"path": "/etc/d/f"}]}
    )


def test_the_firewall_file_is_validated_by_nft() -> None:
    declaration = declaring.parse({"firewall": {"content": "x", "tables": ["inet a"]}})
    [file] = declaration["files"]
    assert (file["path"], file["validate"], file["owner"]) == ("/etc/nftables.conf", "nft -c -f %s", "root")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"settled": ["a"], "files": []}, "settled stands alone"),
        ({"settled": []}, "at least one handler's name"),
        ({"settled": "a"}, "at least one handler's name"),
    ],
)
def test_settled_stands_alone_and_names_handlers(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(AnsibleActionFail, match=says):
        declaring.parse_settled(arguments)


hostile = st.text(st.sampled_from("a/.;\n\"'{}$ 0\x00é"), max_size=8)
values = st.none() | st.booleans() | st.integers(-2, 500) | hostile | st.lists(hostile, max_size=2)
values |= st.sampled_from(
    ["/etc/a", "/etc/a/b", "0644", "started", "a.service", "inet a", "root", {"a": "b"}]
)
sections = {**declaring.SECTIONS, "firewall": declaring.FIREWALL}
declarations = st.fixed_dictionaries(
    {},
    optional={
        title: values
        | st.lists(
            st.dictionaries(st.sampled_from([*section.keys, "x"]), values, max_size=4) | values, max_size=3
        )
        for title, section in sections.items()
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(declarations)
def test_whatever_is_declared_is_accepted_whole_or_refused_in_words(arguments: dict[str, Any]) -> None:
    try:
        declaration = declaring.parse(arguments)
    except AnsibleActionFail:
        return
    for title, section in declaring.SECTIONS.items():
        for item in declaration[title]:
            assert item.keys() == section.keys.keys()
    paths = [
        item["path"] for title in ("directories", "files", "links", "absent") for item in declaration[title]
    ]
    assert len(paths) == len(set(paths))


# --- what follows from drift ----------------------------------------------------------------------


def drift(kind: str, name: str, what: str, before: str = "a", after: str = "b") -> dict[str, str]:
    return {"kind": kind, "name": name, "what": what, "before": before, "after": after}


TWO_FILES = {
    "files": [
        {"path": "/etc/a", "content": "x", "notify": ["one", "both"]},
        {"path": "/etc/b", "content": "y", "notify": ["two", "both"], "secret": True},
    ],
    "links": [{"path": "/etc/l", "target": "a", "notify": ["three"]}],
    "absent": [{"path": "/etc/z", "notify": ["four"]}],
}


def declared(arguments: dict[str, Any]) -> Any:
    declaration = declaring.parse(arguments)
    for item in declaration["files"]:
        declaration.contents[item["path"]] = item["content"].encode()
    return declaration


@pytest.mark.parametrize(
    ("found", "owed"),
    [
        ([], {}),
        ([drift("file", "/etc/a", "mode")], {"one": "/etc/a", "both": "/etc/a"}),
        ([drift("file", "/etc/b", "content")], {"two": "/etc/b", "both": "/etc/b"}),
        (
            [drift("link", "/etc/l", "state"), drift("absent", "/etc/z", "state")],
            {"three": "/etc/l", "four": "/etc/z"},
        ),
        ([drift("directory", "/etc/a", "mode"), drift("package", "a", "state")], {}),
    ],
)
def test_only_the_handlers_of_what_differs_are_owed(
    found: list[dict[str, str]], owed: dict[str, str]
) -> None:
    assert drifting.owed_handlers(declared(TWO_FILES), found) == owed


def test_the_check_is_sent_digests_and_no_content() -> None:
    declaration = declared({"files": [{"path": "/etc/a", "content": "hunter2"}]})
    request = drifting.described(declaration)
    assert "hunter2" not in json.dumps(request)
    assert request["files"][0]["sha256"] == "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7"


@pytest.mark.parametrize(
    ("what", "content"), [("content", "eA=="), ("state", "eA=="), ("mode", None), ("owner", None)]
)
def test_content_is_sent_only_where_it_differs(what: str, content: str | None) -> None:
    declaration = declared(TWO_FILES)
    item = declaration["files"][0]
    assert drifting.to_write(declaration, item, [drift("file", "/etc/a", what)])["content"] == content


def test_a_secret_is_named_in_the_diff_and_not_shown() -> None:
    declaration = declared(TWO_FILES)
    found = [
        drift("file", "/etc/b", "content", "(secret)", "(secret)"),
        drift("file", "/etc/b", "mode", "0666", "0600"),
    ]
    texts = drifting.texts_of(declaration, found, {"/etc/b": "bGVhaw=="})
    [entry] = drifting.diff_of(found, texts)
    assert entry["before_header"] == "file /etc/b"
    assert entry["after"] == "content: (secret)\nmode: 0600\n"
    assert "leak" not in json.dumps(drifting.diff_of(found, texts))


def test_a_new_file_is_shown_whole_and_a_binary_one_by_its_digest() -> None:
    declaration = declared(TWO_FILES)
    found = [drift("file", "/etc/a", "state", "absent", "file")]
    assert drifting.texts_of(declaration, found, {}) == {"/etc/a": ("", "x")}
    declaration.contents["/etc/a"] = b"\xff\x00"
    assert "binary" in drifting.texts_of(declaration, found, {})["/etc/a"][1]


def test_the_diff_keeps_the_order_of_the_drift_and_has_one_entry_for_each_item() -> None:
    found = [
        drift("user", "mirror", "shell"),
        drift("user", "mirror", "groups"),
        drift("file", "/etc/a", "content"),
        drift("firewall", "inet a", "ruleset", "table x", "table y"),
    ]
    headers = [entry["before_header"] for entry in drifting.diff_of(found, {"/etc/a": ("1\n", "2\n")})]
    assert headers == ["user mirror", "file /etc/a (content)", "firewall inet a (live)"]


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/etc/systemd/system/a.service", "a.service"),
        ("/etc/systemd/system/a.service.d/limits.conf", "a.service"),
        ("/usr/lib/systemd/system/a.timer", "a.timer"),
        ("/etc/systemd/system/a@.service", None),
        ("/etc/systemd/system/a@b.service", "a@b.service"),
        ("/etc/systemd/system/a.service.d/deeper/x.conf", None),
        ("/etc/systemd/journald.conf", None),
        ("/etc/nginx/a.service", None),
    ],
)
def test_the_unit_a_file_belongs_to(path: str, unit: str | None) -> None:
    assert drifting.unit_of(path) == unit


@pytest.mark.parametrize(
    ("found", "due"),
    [
        (drift("file", "/etc/systemd/system/a.service", "content"), True),
        (drift("absent", "/etc/systemd/system/a.service.d/x.conf", "state"), True),
        (drift("link", "/etc/systemd/system/a.service", "state"), True),
        (drift("file", "/etc/systemd/system/a@.service", "mode"), True),
        (drift("unit", "a.service", "definition"), True),
        (drift("unit", "a.service", "enabled"), False),
        (drift("file", "/etc/nginx/nginx.conf", "content"), False),
    ],
)
def test_when_systemd_has_to_read_its_units_again(found: dict[str, str], due: bool) -> None:
    assert drifting.daemon_reload_is_due([found]) is due


def test_a_mask_that_lasts_until_reboot_is_told_from_a_lasting_one() -> None:
    found = [
        drift("unit", "a.service", "masked", "until reboot"),
        drift("unit", "b.service", "masked", "yes"),
    ]
    assert drifting.masked_until_reboot(found) == ["a.service"]


@pytest.mark.parametrize(
    ("found", "due"),
    [
        (drift("firewall", "inet a", "ruleset"), True),
        (drift("firewall", "inet a", "trial"), True),
        (drift("file", "/etc/nftables.conf", "content"), True),
        (drift("file", "/etc/a", "content"), False),
    ],
)
def test_when_the_ruleset_has_to_be_loaded(found: dict[str, str], due: bool) -> None:
    declaration = declared(TWO_FILES | {"firewall": {"content": "x", "tables": ["inet a"]}})
    assert drifting.ruleset_is_due(declaration, [found]) == due
    assert not drifting.ruleset_is_due(declared(TWO_FILES), [found])


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"msg": "no such unit"}, "no such unit"),
        ({"msg": "non-zero return code", "stderr": "syntax error\n"}, "non-zero return code\nsyntax error"),
        ({"msg": "apt failed: E: locked", "stderr": "E: locked"}, "apt failed: E: locked"),
        ({"msg": "no JSON", "module_stderr": "Traceback"}, "no JSON\nTraceback"),
        ({}, "failed without a message"),
    ],
)
def test_a_failure_tells_what_the_program_said(result: dict[str, Any], says: str) -> None:
    assert action.what_failed(result) == says
