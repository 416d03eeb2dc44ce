"""The filters between the inventory plugin and the roles, as Ansible calls them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from fleet_inventory import FilterModule

FILTERS = FilterModule().filters()
BESIDE: dict[str, Any] = {"problems": [], "left_alone": [], "own": [], "places": []}
ACME = {"tls_mode": "acme", "tls_acme_directory": "https://acme.example.org:14000/v2/dir"}


def told(**values: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = FILTERS["input_problems"](["one"], {"one": values}, BESIDE)
    return found


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("fleet_check_names", ("false", "true"), ("no", "False", "")),
        ("fleet_drain_seconds", ("0", "0030", "86400"), ("86401", "-1", "1.5", "\u0663")),
        ("fleet_update_sync_seconds", ("60",), ("0", "true")),
    ],
)
def test_options_are_taken_as_the_command_line_gives_them(
    key: str, right: tuple[str, ...], wrong: tuple[str, ...]
) -> None:
    for value in right:
        assert told(**{key: value}) == []
    for value in wrong:
        assert [problem["key"] for problem in told(**{key: value})] == [key]


def test_inputs_of_roles_are_known() -> None:
    (problem,) = told(tls_dais=3)
    assert (problem["host"], problem["key"], problem["next_step"]) == (
        "one",
        "tls_dais",
        "did you mean tls_days?",
    )


@pytest.mark.parametrize(
    ("key", "value", "problem", "next_step"),
    [
        ("web_server_htp3", True, "is no input of the role web_server", "did you mean nginx_http3?"),
        ("sync_client_interval", "7", "is 7", "correct sync_client_interval of one"),
        ("nginx_http3", "maybe", "is text ('maybe')", "correct nginx_http3 of one"),
        ("host_baseline_open_ports", [{"prt": 22}], "entry 1: has the key 'prt'", "did you mean port?"),
        ("host_baseline_open_ports", [{}], "entry 1: lacks the key port", "add port"),
        (
            "web_server_names",
            "a.example.org",
            "is text ('a.example.org')",
            "write one entry a line, each after '- '",
        ),
    ],
)
def test_inputs_of_all_roles_are_known_and_their_values(
    key: str, value: Any, problem: str, next_step: str
) -> None:
    (found,) = told(**{key: value})
    assert (found["key"], found["problem"], found["next_step"]) == (key, problem, next_step)


@pytest.mark.parametrize(
    "values",
    [
        {"sync_client_interval": "10"},
        {"nginx_http3": "true"},
        {"host_baseline_open_ports": [{"port": 22, "protocol": "tcp", "sources": ["192.0.2.1"]}]},
        {"group_names": ["redirectors"], "sync_client_interval": 7},  # this host is given no such role
    ],
)
def test_what_may_be_set(values: dict[str, Any]) -> None:
    assert told(**values) == []


def test_what_cannot_be_evaluated_yet_and_what_is_a_persons_own_is_left_alone() -> None:
    beside = BESIDE | {"left_alone": ["nginx_version"], "own": ["nginx_ours"]}
    hostvars = {"one": {"nginx_version": 5, "nginx_ours": 5}}
    assert FILTERS["input_problems"](["one"], hostvars, beside) == []


def test_what_was_told_of_a_file_is_not_told_of_its_hosts() -> None:
    written = {"host": "mirrors", "file": "group_vars/mirrors.yml", "line": 3, "key": "sync_client_interval"}
    written |= {"problem": "is 7", "allowed": "", "next_step": ""}
    hostvars = {"one": {"sync_client_interval": 7}, "two": {"sync_client_interval": 8}}
    found = FILTERS["input_problems"](["one", "two"], hostvars, BESIDE | {"problems": [written]})
    assert [(one["host"], one["problem"]) for one in found] == [("mirrors", "is 7"), ("two", "is 8")]


def test_what_is_another_hosts_alone_stops_nobody_else() -> None:
    """As with --limit to a new mirror. What is nobody's, a group's or the fleet's is everybody's."""
    problems = [
        {
            "host": name,
            "file": f"host_vars/{name}.yml",
            "line": 1,
            "key": "x",
            "problem": "",
            "allowed": "",
            "next_step": "",
        }
        for name in ("one", "two", "nobody", "all")
    ]
    hostvars: dict[str, Any] = {"one": {}, "two": {}}
    found = FILTERS["input_problems"](["one"], hostvars, BESIDE | {"problems": problems})
    assert [one["host"] for one in found] == ["one", "nobody", "all"]


@pytest.mark.parametrize("name", ["python_program_wheels", "python_program_locks"])
def test_a_pin_may_lead_to_files_that_the_command_line_names(name: str) -> None:
    pins = [
        {
            "host": "all",
            "file": "fleet.yml",
            "line": 1,
            "key": key,
            "problem": "",
            "allowed": "",
            "next_step": "",
        }
        for key in ("fleet_versions.mirrorfleet", "fleet_versions.bandersnatch.debian-13")
    ]
    found = FILTERS["input_problems"](["one"], {"one": {name: "/srv/files"}}, BESIDE | {"problems": pins})
    assert len(found) == 1 and ("bandersnatch" in found[0]["key"]) == (name == "python_program_wheels")


def test_a_template_is_told_with_the_place_where_it_stands() -> None:
    place = {"scope": "mirrors", "key": "sync_client_interval", "file": "group_vars/mirrors.yml", "line": 3}
    hostvars = {"one": {"sync_client_interval": 7}}
    (found,) = FILTERS["input_problems"](["one"], hostvars, BESIDE | {"places": [place]})
    assert (found["host"], found["file"], found["line"]) == ("mirrors", "group_vars/mirrors.yml", 3)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"tls_mode": "acme"}, "tls_acme_directory"),
        ({"tls_mode": "acme", "tls_acme_directory": ""}, "tls_acme_directory"),
        (ACME | {"tls_acme_eab_key_id": "contract"}, "tls_acme_eab_hmac"),
        (ACME | {"tls_acme_eab_hmac": "a" * 30}, "tls_acme_eab_key_id"),
        ({"tls_mode": "provided", "tls_provided_key": "/x.pem"}, "tls_provided_certificate"),
    ],
)
def test_what_acme_needs_is_asked_of_what_is_really_set(values: dict[str, str], key: str) -> None:
    """Whoever set it: the record, fleet.yml, group_vars or host_vars."""
    (problem,) = told(**values)
    assert (problem["key"], problem["problem"]) == (key, "is missing")
    assert told(**ACME) == []


@pytest.mark.parametrize("secret", ["zWNDZM6eQGHWpSRTPal5eIUYFTu7\n", "zWNDZM6eQGHW", 5])
def test_a_secret_that_is_none_is_told_without_showing_it(secret: Any) -> None:
    (problem,) = told(**ACME, tls_acme_eab_key_id="contract", tls_acme_eab_hmac=secret)
    assert problem["key"] == "tls_acme_eab_hmac"
    assert "zWND" not in json.dumps(problem)


def test_what_all_hosts_share_is_told_once() -> None:
    hostvars = {name: {"fleet_drain_seconds": -1, "foreign": object()} for name in ("one", "two")}
    (problem,) = FILTERS["input_problems"](["one", "two"], hostvars, BESIDE)
    assert (problem["host"], problem["key"]) == ("all", "fleet_drain_seconds")
    hostvars["two"] = {}
    (problem,) = FILTERS["input_problems"](["one", "two"], hostvars, BESIDE)
    assert problem["host"] == "one"


@pytest.mark.parametrize("value", [{1: 2}, b"bytes", {"a", "b"}, object(), "x" * 1_000_001])
def test_values_that_no_inventory_has(value: Any) -> None:
    assert [problem["key"] for problem in told(fleet_ca_certificates=value)] == ["fleet_ca_certificates"]


def test_values_that_repeat_themselves_are_refused() -> None:
    bomb: list[Any] = ["x"] * 10
    for _ in range(9):
        bomb = [bomb] * 10
    (problem,) = told(fleet_ca_certificates=bomb)
    assert "YAML aliases" in problem["problem"]
    endless: list[Any] = []
    endless.append(endless)
    (problem,) = told(fleet_ca_certificates=endless)
    assert "nested too deeply" in problem["problem"]


def test_ports_are_open_to_those_who_need_them_by_address_or_name() -> None:
    clients = ["2001:db8::7", "t.example.org"]
    inputs = {"names": ["a.example.org"], "monitors": ["m.example.org"], "rsync_clients": clients}
    web, metrics = [{"port": 80}, {"port": 443}], {"port": 9100, "sources": ["m.example.org"]}
    rsync = {"port": 873, "sources": clients}
    assert FILTERS["fleet_ports"](inputs) == [*web, rsync, metrics]
    udp = {"port": 443, "protocol": "udp"}
    assert FILTERS["fleet_ports"](inputs, True) == [*web, udp, rsync, metrics]
    assert FILTERS["fleet_ports"](inputs | {"rsync_clients": []}) == [*web, metrics]
    nobody = {"names": [], "monitors": []}
    assert FILTERS["fleet_ports"](nobody) == [], "a port without sources would be open to all"


RELAY = {"address": "relay.example.org:587", "from": "fleet@example.org"}


def test_a_relay_with_a_password_comes_from_where_secrets_are() -> None:
    contacts = {"fleet": "x", "relay": {}, "mirrors": []}
    whole = RELAY | {"user": "u", "password": "S3cret"}
    assert FILTERS["mailed_by"](contacts, whole) == contacts | {"relay": whole | {"starttls": True}}
    assert FILTERS["mailed_by"](contacts, {}) == contacts
    for wrong in (
        RELAY | {"password": "S3cret"},
        whole | {"starttls": False},
        whole | {"password": "S3cret\n"},
        "S3cret",
    ):
        with pytest.raises(AnsibleFilterError, match="fleet_mail_relay") as caught:
            FILTERS["mailed_by"](contacts, wrong)
        assert "S3cret" not in str(caught.value)


CONFIG = {"name": "one", "mode": "cache", "upstream": "", "index_url": ""}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "mirror_upstream: is not given, and no upstream was discovered"),
        ({"discovered": {"index_url": "https://a b"}}, "discovered index_url"),
        ({"settings": {"minimum_free_byte": 1}}, "did you mean minimum_free_bytes?"),
    ],
)
def test_a_configuration_that_cannot_be_is_a_filters_error(more: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        FILTERS["mirror_config"](CONFIG, **more)
    assert said in str(caught.value)
    assert caught.value.__cause__ is not None
