"""The inventory contract, the rules between hosts, the configuration of a mirror, the registry: without Ansible."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from inventory_material import fleet_of

from plugin_utils import contract, documents, rules, values, wiring
from plugin_utils.contacts import contacts
from plugin_utils.contract import SELECTION_DEFAULTS
from plugin_utils.host_config import host_config, mirror_config
from plugin_utils.registry import measured
from plugin_utils.registry import registry as registry_of
from plugin_utils.values import BadValueError

MIRROR = [key for key in contract.keys(contract.RECORD) if key.startswith("mirror_")]
MIRROR_REQUIRED = contract.schema(contract.RECORD)["required"]
TLS = [key for key in contract.keys(contract.RECORD) if key.startswith("tls_")]
FLEET_KEYS = [key for key in contract.keys(contract.FLEET) if key.startswith(("fleet_", "private_"))]
FLEET_REQUIRED = [key for key in contract.schema(contract.FLEET)["required"] if key.startswith("fleet_")]


def section(name: str) -> dict[str, Any]:
    found: dict[str, Any] = contract.keys(contract.FLEET)[name]["additionalProperties"]
    return found


ORIGIN = [key for key in section("origins")["properties"] if key.startswith("origin_")]
REDIRECTOR = [key for key in section("redirectors")["properties"] if key.startswith("redirector_")]


ROOT = Path(__file__).resolve().parents[2]
TODAY = "2026-11-23"

# As a person would write it: a fleet with one mirror of each mode.
FLEET: dict[str, Any] = documents.parse("""
fleet_name: Test fleet
fleet_coordinator: {name: Coordinator, email: coordinator@example.org}
fleet_agreement_version: "2026-11"
fleet_selection: {projects: [six, Zope.Interface]}
fleet_gate_project: six
fleet_staleness_limit: 86400
fleet_versions:
  mirrorfleet: "0.1.0"
  bandersnatch: {debian-13: "8.2.0", debian-12: "6.8.0"}
  nginx: {debian-13: "1.26.*", debian-12: "1.22.*"}
""").values
RECORD = """
mirror_mode: bandersnatch
mirror_url: https://HOST.example.org
mirror_location: {continent: OC, country: NZ, city: Auckland, latitude: -36.8, longitude: 174.8}
mirror_operator: {name: Ngā Mate, email: ops@example.org, url: "https://example.org/about"}
mirror_agreement: {version: "2026-11", accepted_by: A. Person, accepted_on: 2026-11-20}
tls_mode: private_ca
"""


def record(host: str, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = documents.parse(RECORD.replace("HOST", host)).values
    return FLEET | own | changes


def inventory() -> tuple[dict[str, Any], dict[str, list[str]]]:
    hostvars = {
        "origin": FLEET
        | {"origin_url": "https://origin.example.org", "origin_projects": ["six", "zope.interface"]},
        "one": record("one", mirror_upstream="origin"),
        "two": record("two", mirror_mode="rsync", mirror_upstream="one"),
        "three": record("three", mirror_mode="cache", mirror_on_miss="pass"),
        "redirector": FLEET | {"redirector_url": "https://list.example.org", "tls_mode": "private_ca"},
    }
    groups = {
        "all": list(hostvars),
        "ungrouped": [],
        "origins": ["origin"],
        "mirrors": ["one", "two", "three"],
        "redirectors": ["redirector"],
    }
    return copy.deepcopy(hostvars), groups


def told_of(hostvars: dict[str, Any], groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    return fleet_of(hostvars, groups, TODAY).problems()


def problems_with(host: str, **changes: Any) -> list[dict[str, Any]]:
    hostvars, groups = inventory()
    hostvars[host].update(changes)
    return told_of(hostvars, groups)


def test_a_good_inventory_has_no_problems() -> None:
    hostvars, groups = inventory()
    assert told_of(hostvars, groups) == []


def versions(nginx: Any) -> dict[str, Any]:
    return {"mirrorfleet": "0.1.0", "bandersnatch": {"debian-13": "8.2.0"}, "nginx": {"debian-13": nginx}}


@pytest.mark.parametrize("pin", ["1.26.*", "1.26.3-3+deb13u1", "1:1.26.3~rc1-1", "1.26.*+fleet1"])
def test_nginx_is_pinned_to_what_apt_calls_a_version(pin: str) -> None:
    assert problems_with("one", fleet_versions=versions(pin)) == []


@pytest.mark.parametrize("pin", ["*", "", "1.26; rm", "1.26\n", "latest", 1.26, "1/2"])
def test_what_apt_would_not_take_for_a_version_is_told(pin: Any) -> None:
    (problem,) = problems_with("one", fleet_versions=versions(pin))
    assert problem["key"] == "fleet_versions.nginx.debian-13"


def test_the_local_fleets_inventory_follows_the_contract() -> None:
    assert {"mirror_mode", "mirror_url"} < set(MIRROR)
    for path in (ROOT / "inventory").glob("*/mirrors/*.yml"):
        keys = yaml.safe_load(path.read_text())
        assert {key for key in keys if key.startswith("mirror_")} <= set(MIRROR), path


@pytest.mark.parametrize(
    ("change", "key", "problem", "next_step"),
    [
        ({"mirror_mode": "bandersnach"}, "mirror_mode", "is 'bandersnach'", "did you mean bandersnatch?"),
        ({"mirror_mode": None}, "mirror_mode", "is None", ""),
        ({"mirror_modus": "cache"}, "mirror_modus", "is no known key", "did you mean mirror_mode?"),
        ({"fleet_selecton": {}}, "fleet_selecton", "is no known key", "did you mean fleet_selection?"),
        ({"mirror_url": "http://one.example.org"}, "mirror_url", "is 'http://one.example.org'", ""),
        (
            {"mirror_url": "https://one.example.org/pypi"},
            "mirror_url",
            "has the path '/pypi'",
            "top of its name",
        ),
        (
            {"mirror_url": "https://me:secret@one.example.org"},
            "mirror_url",
            "carries a user name or password",
            "",
        ),
        ({"mirror_upstream": "ftp://me:s3cret@a.example/x"}, "mirror_upstream", "is 'ftp://a.example/x'", ""),
        (
            {"mirror_upstream": "https://me:s3 cret@a.example"},
            "mirror_upstream",
            "is 'https://a.example'",
            "",
        ),
        (
            {"mirror_url": "https://192.0.2.1"},
            "mirror_url",
            "is the address '192.0.2.1'",
            "use the host's name",
        ),
        ({"mirror_url": "https://spiegel.köln.example"}, "mirror_url", r"k\xf6ln", ""),
        ({"mirror_url": []}, "mirror_url", "has 0 entries", ""),
        ({"mirror_url": "https://origin.example.org"}, "mirror_url", "is origin's as well", ""),
        (
            {"mirror_url": ["https://one.example.org", "https://TWO.example.org/"]},
            "mirror_url",
            "one's as well",
            "",
        ),
        ({"mirror_location": "Auckland"}, "mirror_location", "is text ('Auckland')", ""),
        ({"mirror_location": {"city": "X"}}, "mirror_location.country", "is missing", ""),
        ({"mirror_bandwidth": 1e3}, "mirror_bandwidth", "is a number (1000.0)", ""),
        ({"mirror_bandwidth": True}, "mirror_bandwidth", "is true/false (True)", ""),
        ({"mirror_bandwidth": 0}, "mirror_bandwidth", "is 0", ""),
        ({"mirror_address_families": []}, "mirror_address_families", "has 0 entries", ""),
        ({"mirror_address_families": ["ipv4", "ipv4"]}, "mirror_address_families", "repeats entry 1", ""),
        (
            {"mirror_address_families": "ipv4"},
            "mirror_address_families",
            "is text ('ipv4')",
            "one entry a line",
        ),
        ({"mirror_networks": ["192.0.2.1/24"]}, "mirror_networks", "has host bits set", "write 192.0.2.0/24"),
        ({"mirror_networks": ["0.0.0.0/0"]}, "mirror_networks", "is '0.0.0.0/0'", ""),
        ({"mirror_networks": ["fe80::%eth0/64"]}, "mirror_networks", "is 'fe80::%eth0/64'", ""),
        ({"mirror_networks": ["AS0"]}, "mirror_networks", "is 'AS0'", ""),
        ({"mirror_networks": ["AS4294967296"]}, "mirror_networks", "is 'AS4294967296'", ""),
        ({"mirror_operator": {"name": "x", "email": "nobody"}}, "mirror_operator.email", "is 'nobody'", ""),
        ({"mirror_operator": {"name": "x\n", "email": "a@b.example"}}, "mirror_operator.name", "U+000A", ""),
        (
            {"mirror_operator": {"name": "\u202egnp", "email": "a@b.example"}},
            "mirror_operator.name",
            "U+202E",
            "",
        ),
        ({"mirror_agreement": {}}, "mirror_agreement.version", "is missing", ""),
        ({"mirror_state": "asleep"}, "mirror_state", "is 'asleep'", ""),
        ({"tls_mode": "self-signed"}, "tls_mode", "is 'self-signed'", ""),
        (
            {"mirror_upstream": "orgin"},
            "mirror_upstream",
            "names 'orgin', which is no host",
            "did you mean origin?",
        ),
        (
            {"mirror_upstream": "three"},
            "mirror_upstream",
            "is three, which has no files of its own to give (of mode cache)",
            "",
        ),
        ({"mirror_upstream": "redirector"}, "mirror_upstream", "neither mirror nor origin", ""),
        ({"mirror_upstream": "one"}, "mirror_upstream", "runs in a circle: one <- one", ""),
        ({"mirror_upstream": "https://one.example.org"}, "mirror_upstream", "runs in a circle", ""),
        (
            {"mirror_selection": {}},
            "mirror_selection",
            "selects nothing",
            "only everything: true means everything",
        ),
        ({"mirror_selection": {"projects": []}}, "mirror_selection", "selects nothing", ""),
        ({"mirror_selection": {"everything": "true"}}, "mirror_selection.everything", "is text ('true')", ""),
        (
            {"mirror_selection": {"projects": ["six>=1"]}},
            "mirror_selection.projects",
            "'six>=1', no project name",
            "",
        ),
        ({"mirror_selection": {"projects": ["*"]}}, "mirror_selection.projects", "'*', no project name", ""),
        (
            {"mirror_selection": {"projects": ["a_b", "A.b"]}},
            "mirror_selection.projects",
            "repeats entry 1",
            "",
        ),
        (
            {"mirror_selection": {"project": ["six"]}},
            "mirror_selection.project",
            "is no known key",
            "projects?",
        ),
        (
            {"mirror_selection": {"projects": ["six"], "everything": True}},
            "mirror_selection",
            "says everything: true and names projects",
            "",
        ),
        (
            {"mirror_selection": {"projects": ["six"], "releases_kept": 0}},
            "mirror_selection.releases_kept",
            "is 0",
            "",
        ),
        (
            {"mirror_selection": {"projects": ["six"], "platforms_excluded": ["window"]}},
            "mirror_selection.platforms_excluded",
            "is 'window'",
            "did you mean windows?",
        ),
        (
            {"mirror_selection": {"projects": ["six"], "max_project_size": 10**9}},
            "mirror_selection.max_project_size",
            "has no effect on projects that are named",
            "",
        ),
        (
            {"mirror_selection": {"projects": ["six"], "blocklist": ["Six"]}},
            "mirror_selection.blocklist",
            "blocks six, which projects names",
            "",
        ),
    ],
)
def test_a_wrong_value_is_told_with_key_and_way_out(
    change: dict[str, Any], key: str, problem: str, next_step: str
) -> None:
    told = problems_with("one", **change)
    assert any(
        p["key"] == key and problem in p["problem"] and p["allowed"] and next_step in p["next_step"]
        for p in told
    ), told
    assert all(p["host"] in ({"all"} if key.startswith("fleet_") else {"one", "two"}) for p in told), told


WINDOW = {"from": "2026-12-01T20:00:00+13:00", "until": "2026-12-01T23:00:00+13:00", "reason": "disks"}
RELAY = {"address": "relay.example.org:587", "from": "fleet@example.org"}


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        ({"mirror_maintenance": WINDOW}, "mirror_maintenance", "is a mapping"),
        ({"mirror_maintenance": ["tonight"]}, "mirror_maintenance.1", "is text ('tonight')"),
        ({"mirror_maintenance": [WINDOW, {"from": "x"}]}, "mirror_maintenance.2.until", "is missing"),
        (
            {"mirror_maintenance": [WINDOW | {"from": "2026-12-01 20:00"}]},
            "mirror_maintenance.1.from",
            "without a zone",
        ),
        ({"mirror_maintenance": [WINDOW | {"from": "today"}]}, "mirror_maintenance.1.from", "is 'today'"),
        ({"mirror_maintenance": [WINDOW | {"from": 5}]}, "mirror_maintenance.1.from", "is 5"),
        (
            {"mirror_maintenance": [WINDOW | {"until": WINDOW["from"]}]},
            "mirror_maintenance.1.until",
            "is '2026-12-01T20",
        ),
        (
            {"mirror_maintenance": [WINDOW | {"until": "2027-12-01T00:00:00Z"}]},
            "mirror_maintenance.1.until",
            "is '2027",
        ),
        ({"mirror_maintenance": [WINDOW | {"reason": ""}]}, "mirror_maintenance.1.reason", "is empty"),
        ({"mirror_maintenance": [WINDOW | {"why": "x"}]}, "mirror_maintenance.1.why", "is no known key"),
        ({"fleet_ca_certificates": "/ca.pem"}, "fleet_ca_certificates", "is text"),
        (
            {"fleet_ca_certificates": ["/nowhere/ca.pem"]},
            "fleet_ca_certificates",
            "entry 1: '/nowhere/ca.pem'",
        ),
        ({"fleet_ca_certificates": ["/dev/null"]}, "fleet_ca_certificates", "entry 1: is '/dev/null'"),
        ({"fleet_mail_relay": "smtp://me:S3cret@relay"}, "fleet_mail_relay", "is text"),
        ({"fleet_mail_relay": {"address": "relay.example.org:587"}}, "fleet_mail_relay.from", "is missing"),
        (
            {"fleet_mail_relay": RELAY | {"address": "relay.example.org"}},
            "fleet_mail_relay.address",
            "is 'relay",
        ),
        ({"fleet_mail_relay": RELAY | {"address": "relay:99999"}}, "fleet_mail_relay.address", "is 'relay"),
        ({"fleet_mail_relay": RELAY | {"address": "[::g]:25"}}, "fleet_mail_relay.address", "is '[::g]:25'"),
        ({"fleet_mail_relay": RELAY | {"starttls": "no"}}, "fleet_mail_relay.starttls", "is text ('no')"),
        ({"fleet_mail_relay": RELAY | {"user": "u"}}, "fleet_mail_relay.user", "are not both given"),
        ({"fleet_mail_relay": RELAY | {"pasword": "S3cret"}}, "fleet_mail_relay.pasword", "is no known key"),
        (
            {"fleet_mail_relay": RELAY | {"user": "u", "password": "S3cret\n"}},
            "fleet_mail_relay.password",
            "control characters",
        ),
        (
            {"fleet_mail_relay": RELAY | {"user": "u", "password": "S3cret", "starttls": False}},
            "fleet_mail_relay.starttls",
            "in clear",
        ),
        (
            {
                "mirror_operator": {
                    "name": "x",
                    "email": "a@b.example",
                    "webhook": "http://h.example.org/S3cret",
                }
            },
            "mirror_operator.webhook",
            "is no such URL",
        ),
        (
            {
                "mirror_operator": {
                    "name": "x",
                    "email": "a@b.example",
                    "webhook": "https://me:S3cret@h.example.org/",
                }
            },
            "mirror_operator.webhook",
            "is no such URL",
        ),
        (
            {
                "fleet_coordinator": {
                    "name": "x",
                    "email": "a@b.example",
                    "webhook": "https://h.example.org/#S3cret",
                }
            },
            "fleet_coordinator.webhook",
            "is no such URL",
        ),
    ],
)
def test_what_is_wrong_with_alerts_is_told_without_secrets(
    change: dict[str, Any], key: str, problem: str
) -> None:
    told = problems_with("one", **change)
    assert any(p["key"] == key and problem in p["problem"] and p["allowed"] for p in told), told
    assert {p["key"].split(".")[0] for p in told} == set(change)
    assert "S3cret" not in json.dumps(told)


@pytest.mark.parametrize(
    ("given_as", "relay"),
    [
        ("relay.example.org:0587", "relay.example.org:587"),
        ("localhost:25", "localhost:25"),
        ("192.0.2.1:25", "192.0.2.1:25"),
        ("[2001:DB8:0::25]:25", "[2001:db8::25]:25"),
    ],
)
def test_a_relay_is_taken_as_it_is_reached(given_as: str, relay: str) -> None:
    hostvars, groups = inventory()
    for one in hostvars.values():
        one["fleet_mail_relay"] = RELAY | {"address": given_as}
    assert contacts(fleet_of(hostvars, groups))["relay"] == RELAY | {
        "address": relay,
        "starttls": True,
    }


def test_windows_are_taken_as_yaml_reads_them() -> None:
    """Without quotes, a moment is YAML's own timestamp."""
    hostvars, groups = inventory()
    text = "[{from: 2026-12-01T20:00:00+13:00, until: 2026-12-01 11:00:00Z, reason: disks}]"
    hostvars["one"]["mirror_maintenance"] = documents.parse(f"x: {text}").values["x"]
    (one,) = (m for m in contacts(fleet_of(hostvars, groups))["mirrors"] if m["name"] == "one")
    assert one["maintenance"] == [
        {"from": "2026-12-01T07:00:00+00:00", "until": "2026-12-01T11:00:00+00:00", "reason": "disks"}
    ]


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(90.1, 0), (-91, 0), (0, 180.5), (0, -181), (float("nan"), 0), (float("inf"), 0), ("1", 0), (True, 0)],
)
def test_coordinates_outside_the_globe(latitude: Any, longitude: Any) -> None:
    place = {"continent": "OC", "country": "NZ", "city": "X", "latitude": latitude, "longitude": longitude}
    assert [p["key"].rpartition(".")[0] for p in problems_with("one", mirror_location=place)] == [
        "mirror_location"
    ]


@pytest.mark.parametrize("country", ["UK", "nz", "New Zealand", False, "XX", None])
def test_countries_by_iso_3166(country: Any) -> None:
    place = {"continent": "OC", "country": country, "city": "X", "latitude": 0, "longitude": 0}
    (told,) = problems_with("one", mirror_location=place)
    assert told["key"] == "mirror_location.country"


def test_norway_needs_no_quotes() -> None:
    place = "{continent: EU, country: NO, city: Oslo, latitude: 59.9, longitude: 10.7}"
    assert problems_with("one", mirror_location=documents.parse(f"x: {place}").values["x"]) == []


def test_every_missing_key_of_a_record_is_told_at_once() -> None:
    hostvars, groups = inventory()
    hostvars["three"] = FLEET | {"mirror_state": "active"}
    told = told_of(hostvars, groups)
    assert {p["key"] for p in told} == {
        "mirror_mode",
        "mirror_url",
        "mirror_location",
        "mirror_operator",
        "mirror_agreement",
    }
    assert {p["problem"] for p in told} == {"is missing"}


def test_problems_of_all_hosts_are_told_at_once() -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_bandwidth"] = "fast"
    hostvars["two"]["mirror_state"] = "gone"
    hostvars["three"]["mirror_url"] = 5
    told = told_of(hostvars, groups)
    assert [(p["host"], p["key"]) for p in told] == [
        ("one", "mirror_bandwidth"),
        ("two", "mirror_state"),
        ("three", "mirror_url"),
    ]


def test_a_problem_of_the_fleets_file_is_told_once() -> None:
    hostvars, groups = inventory()
    for host in hostvars:
        hostvars[host]["fleet_staleness_limit"] = 1
        del hostvars[host]["fleet_name"]
    told = told_of(hostvars, groups)
    assert {(p["host"], p["key"]): p["next_step"] for p in told} == {
        ("all", "fleet_staleness_limit"): "correct fleet_staleness_limit in fleet.yml",
        ("all", "fleet_name"): "add fleet_name to fleet.yml",
    }
    assert len(told) == 2


@pytest.mark.parametrize(
    ("agreement", "key", "problem"),
    [
        (
            {"version": "2025-01"},
            "mirror_agreement.version",
            "is '2025-01', an agreement that is not the fleet's",
        ),
        ({"accepted_on": "2026-11-24"}, "mirror_agreement.accepted_on", "lies in the future"),
        ({"expires_on": "2026-11-22"}, "mirror_agreement.expires_on", "has passed (2026-11-22)"),
        ({"accepted_on": "2026-13-01"}, "mirror_agreement.accepted_on", "which is in no calendar"),
        ({"accepted_on": "yesterday"}, "mirror_agreement.accepted_on", "is 'yesterday'"),
    ],
)
def test_agreements(agreement: dict[str, str], key: str, problem: str) -> None:
    good = {"version": "2026-11", "accepted_by": "A. Person", "accepted_on": TODAY, "expires_on": TODAY}
    assert problems_with("one", mirror_agreement=good) == []
    (told,) = problems_with("one", mirror_agreement=good | agreement)
    assert told["key"] == key
    assert problem in told["problem"]


def test_a_retired_mirror_needs_no_current_agreement_but_feeds_nobody() -> None:
    old = {"version": "2020-01", "accepted_by": "A. Person", "accepted_on": "2020-01-01"}
    assert problems_with("three", mirror_state="retired", mirror_agreement=old) == []
    (told,) = problems_with("one", mirror_state="retired")
    assert (told["host"], told["problem"]) == ("two", "is one, which is retired")


def test_longer_circles_are_told_at_the_hosts_that_form_them() -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_upstream"] = "https://three.example.org"
    hostvars["three"] |= {"mirror_mode": "bandersnatch", "mirror_upstream": "one"}
    told = told_of(hostvars, groups)
    assert [(p["host"], p["problem"]) for p in told] == [
        ("one", "runs in a circle: one <- three <- one"),
        ("three", "runs in a circle: three <- one <- three"),
    ]


def test_rsync_takes_an_inventory_name_only() -> None:
    (told,) = problems_with("two", mirror_upstream="https://elsewhere.example.org")
    assert "outside this inventory" in told["problem"]
    hostvars, groups = inventory()
    del hostvars["two"]["mirror_upstream"]
    (told,) = told_of(hostvars, groups)
    assert (told["host"], told["key"], told["problem"]) == ("two", "mirror_upstream", "is missing")


def test_a_mirror_that_leaves_out_releases_is_partial_and_so_is_who_takes_from_it() -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_selection"] = {"projects": ["six"], "releases_kept": 3}
    registry = registry_of(fleet_of(hostvars, groups))
    assert {one["name"]: one["partial"] for one in registry["mirrors"]} == {
        "one": True,
        "two": True,
        "three": False,
    }
    assert [one["left_out"] for one in registry["mirrors"]] == [
        {"releases_kept": 3},
        {},
        {"releases_kept": 3},
    ]


def test_the_registry_tells_how_much_each_carries_and_what_becomes_of_the_rest() -> None:
    def told() -> dict[str, tuple[int | None, str]]:
        registry = registry_of(fleet_of(hostvars, groups))
        return {one["name"]: (one["projects"], one["on_miss"]) for one in registry["mirrors"]}

    hostvars, groups = inventory()
    hostvars["one"]["mirror_selection"] = {"projects": ["six"]}
    assert told() == {"one": (1, "not_found"), "two": (1, "not_found"), "three": (None, "pass")}
    hostvars["one"] |= {"mirror_selection": {"everything": True}, "mirror_on_miss": "pass"}
    hostvars["two"]["mirror_selection"] = {"projects": ["six", "idna"]}
    assert told() == {"one": (None, "pass"), "two": (2, "not_found"), "three": (None, "pass")}
    hostvars["two"]["mirror_upstream"] = "origin"
    del hostvars["two"]["mirror_selection"]
    hostvars["origin"]["origin_projects"] = ["six", "idna", "attrs"]
    hostvars["two"]["fleet_selection"] = {"projects": ["six", "idna", "zope.interface"]}
    assert told()["two"] == (2, "not_found")  # of the fleet's selection what the tier above has
    for host in hostvars.values():
        host.pop("fleet_selection", None)
    assert told()["two"] == (3, "not_found")


def test_monitors_know_what_each_mirror_is_to_have() -> None:
    hostvars, groups = inventory()

    def selections() -> dict[str, tuple[list[str], list[str]]]:
        found = measured(fleet_of(hostvars, groups))["selections"]
        return {name: (one["projects"], one["without"]) for one in found for name in one["mirrors"]}

    hostvars["origin"]["origin_projects"] = ["six", "idna", "attrs"]
    assert measured(fleet_of(hostvars, groups)) == {
        # Said once for all that are alike. A cache that asks upstream itself has whatever that has.
        "selections": [{"mirrors": ["one", "two"], "projects": ["six", "zope-interface"], "without": []}],
        "reference": {"carries": ["attrs", "idna", "six"]},
    }
    hostvars["three"]["mirror_upstream"] = "two"
    assert selections()["three"] == selections()["two"]
    for name in ("one", "two"):
        hostvars[name]["mirror_selection"] = {"everything": True, "blocklist": [f"not-{name}"]}
    assert selections() == {
        "one": ([], ["not-one"]),
        "two": ([], ["not-one", "not-two"]),  # what the tier above leaves out it cannot have
        "three": ([], ["not-one", "not-two"]),
    }
    del hostvars["origin"]
    groups["origins"].clear()
    hostvars["one"].pop("mirror_upstream")
    assert measured(fleet_of(hostvars, groups))["reference"] == {"carries": []}


def test_a_monitor_needs_a_name_unless_it_is_a_redirector() -> None:
    hostvars, groups = inventory()
    hostvars["watch"] = {key: value for key, value in hostvars["one"].items() if key.startswith("fleet_")}
    groups |= {"monitors": ["watch"], "all": [*groups["all"], "watch"]}
    (told,) = told_of(hostvars, groups)
    assert (told["host"], told["key"], told["problem"]) == ("watch", "monitor_url", "is missing")
    hostvars["watch"]["monitor_url"] = "https://watch.example.org"
    assert told_of(hostvars, groups) == []
    groups["monitors"] = ["one"]
    assert "one is one of the monitors" in str(told_of(hostvars, groups))


def test_tiers_form_chains() -> None:
    """A tier-3 takes from a tier-2, and so may a cache and a bandersnatch."""
    for changes in ({"mirror_mode": "rsync"}, {"mirror_mode": "cache"}, {"mirror_mode": "bandersnatch"}):
        hostvars, groups = inventory()
        del hostvars["three"]["mirror_on_miss"]
        hostvars["three"] |= {"mirror_upstream": "two"} | changes
        assert told_of(hostvars, groups) == []
        registry = registry_of(fleet_of(hostvars, groups))
        assert [(m["name"], m["tier"]) for m in registry["mirrors"]] == [("one", 1), ("three", 3), ("two", 2)]


def test_who_takes_from_a_host_by_rsync() -> None:
    def clients(host: str) -> list[str]:
        found: list[str] = wiring.Wiring(fleet_of(hostvars, groups)).inputs(host)["rsync_clients"]
        return found

    hostvars, groups = inventory()
    hostvars["three"] |= {"mirror_mode": "rsync", "mirror_upstream": "https://one.example.org"}
    del hostvars["three"]["mirror_on_miss"]
    assert clients("one") == ["three.example.org", "two.example.org"]
    assert clients("two") == []
    assert clients("origin") == []
    hostvars["three"]["mirror_address"] = ["192.0.2.7", "2001:db8::7"]
    assert clients("one") == ["192.0.2.7", "2001:db8::7", "two.example.org"]
    hostvars["two"]["mirror_state"] = "retired"
    assert clients("one") == ["192.0.2.7", "2001:db8::7"]
    hostvars["three"]["mirror_bandwidth"] = "much"
    assert clients("one") == []


def test_bandersnatch_without_any_selection() -> None:
    hostvars, groups = inventory()
    for host in hostvars:
        del hostvars[host]["fleet_selection"]
    (told,) = told_of(hostvars, groups)
    assert (told["host"], told["key"]) == ("one", "mirror_selection")


def test_a_mirror_can_only_carry_what_its_upstream_has() -> None:
    (told,) = problems_with("origin", origin_projects=["six"])
    assert (told["host"], told["key"]) == ("all", "fleet_selection")
    assert told["problem"] == "names zope-interface, which its upstream origin does not carry"
    assert problems_with("one", mirror_selection={"everything": True}) == []


def test_every_mirror_carries_what_the_gate_installs() -> None:
    (told,) = problems_with("one", mirror_selection={"projects": ["zope.interface"]})
    assert (told["host"], told["key"]) == ("one", "mirror_selection")
    assert "lacks six" in told["problem"]


def test_a_mirror_is_none_of_the_fleets_own_hosts() -> None:
    hostvars, groups = inventory()
    hostvars["three"] |= {"redirector_url": "https://three.example.org"}
    groups["redirectors"].append("three")
    told = {(p["host"], p["key"]): p["problem"] for p in told_of(hostvars, groups)}
    assert told["three", "name"] == "three is one of the redirectors"
    fleet = fleet_of(hostvars, groups)
    assert (fleet.groups["mirrors"], fleet.broken, fleet.fatal()) == (["one", "two"], ["three"], [])


def test_a_host_is_in_one_section_unless_it_publishes_and_measures() -> None:
    hostvars, groups = inventory()
    groups["monitors"] = ["redirector"]
    assert told_of(hostvars, groups) == []
    groups["clients"] = ["origin"]
    (told,) = told_of(hostvars, groups)
    assert (told["key"], told["problem"]) == ("clients.origin", "is one of the origins as well")


def test_networks_of_private_mirrors_are_the_fleets_and_reach_its_monitors() -> None:
    hostvars, groups = inventory()
    fleet = fleet_of(hostvars, groups, private_networks=["10.0.0.0/8", "FD00::/8"])
    assert fleet.fatal() == []
    assert wiring.Wiring(fleet).inputs("redirector")["private_networks"] == ["10.0.0.0/8", "fd00::/8"]
    (told,) = fleet_of(hostvars, groups, private_networks=["10.0.0.1/8"]).fatal()
    assert (told["key"], told["next_step"]) == ("private_networks", "write 10.0.0.0/8")
    (told,) = fleet_of(hostvars, groups, fleet_monitor_settings={"private_addresses": True}).fatal()
    assert (
        told["key"] == "fleet_monitor_settings.private_addresses" and "private_networks" in told["next_step"]
    )


@pytest.mark.parametrize(
    "name", ["Mirror", "-a", "a b", "all", "localhost", "mirrors", "127.0.0.1", "a/b", "é", "a\n"]
)
def test_names_that_are_none_for_a_host(name: str) -> None:
    hostvars, groups = inventory()
    hostvars[name] = record("four")
    groups["mirrors"].append(name)
    (told,) = told_of(hostvars, groups)
    assert told["key"] == "name" and "is no name for a host" in told["problem"]
    assert fleet_of(hostvars, groups).groups["mirrors"] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("group", "key", "problem"),
    [("mirrors", "mirrors", "the folder has no record"), ("redirectors", "redirectors", "is missing")],
)
def test_an_inventory_without_a_needed_group(group: str, key: str, problem: str) -> None:
    hostvars, groups = inventory()
    groups["monitors"] = ["redirector"] if group == "mirrors" else []
    for host in groups.pop(group):
        del hostvars[host]
    found = [(p["key"], p["problem"]) for p in fleet_of(hostvars, groups).fatal()]
    assert found == [(key, problem)] + [("monitors", "is empty")] * (group == "redirectors")


def test_a_wrong_record_stops_itself_and_lets_the_others_be() -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_bandwidth"] = "much"
    fleet = fleet_of(hostvars, groups)
    assert (fleet.broken, fleet.groups["mirrors"], fleet.fatal()) == (["one"], ["two", "three"], [])
    assert fleet.groups["waiting"] == ["two"]
    stopped = [(p["host"], p["key"], p["problem"]) for p in fleet.stopped()]
    assert stopped == [
        ("one", "mirror_bandwidth", "is text ('much')"),
        ("two", "mirror_upstream", "is one, whose record is wrong"),
    ]
    inputs = wiring.Wiring(fleet).inputs("two")
    assert "config" not in inputs and inputs["urls"] == ["https://two.example.org"]


@pytest.mark.parametrize("change", [{"mirror_state": "retired"}, {"mirror_mode": "cache"}])
def test_who_is_fed_by_a_mirror_that_feeds_nobody_now_waits(change: dict[str, str]) -> None:
    hostvars, groups = inventory()
    hostvars["one"] |= change
    fleet = fleet_of(hostvars, groups)
    assert (fleet.broken, fleet.groups["waiting"], fleet.fatal()) == ([], ["two"], [])


def test_a_new_record_cannot_take_a_mirrors_name_away() -> None:
    hostvars, groups = inventory()
    hostvars["aaa"] = record("two", mirror_mode="cache")
    groups["mirrors"].insert(0, "aaa")
    assert fleet_of(hostvars, groups).broken == ["aaa"]
    hostvars["aaa"]["mirror_url"] = "https://list.example.org"
    assert fleet_of(hostvars, groups).broken == ["aaa"]


ACME = {"tls_mode": "acme", "tls_acme_directory": "https://acme.example.org:14000/v2/dir"}


def test_acme_needs_no_more_than_its_directory() -> None:
    assert problems_with("one", **ACME) == []
    bound = {"tls_acme_eab_key_id": "contract 7", "tls_acme_eab_hmac": "zWNDZM6eQGHWpSRTPal5eIUYFTu7_-=="}
    assert (
        problems_with("one", **ACME, **bound, tls_acme_email="a@example.org", tls_acme_key_type="rsa") == []
    )


@pytest.mark.parametrize(
    "secret", ["zWNDZM6eQGHWpSRTPal5eIUYFTu7\n", "zWNDZM6eQGHW", "zWNDZM6eQGHWpSRTPal5+IUYFTu7/AAA"]
)
def test_a_secret_that_is_none_is_told_without_showing_it(secret: str) -> None:
    (told,) = problems_with("one", **ACME, tls_acme_eab_key_id="contract", tls_acme_eab_hmac=secret)
    assert told["key"] == "tls_acme_eab_hmac"
    assert "zWND" not in json.dumps(told)


@pytest.mark.parametrize(
    ("host", "changes", "key", "problem"),
    [
        ("redirector", {"redirector_url": "http://list.example.org"}, "redirector_url", "is 'http"),
        ("redirector", {"redirector_url": "https://list.example.org:8443"}, "redirector_url", "is 'https"),
        ("redirector", {"tls_mode": "privat"}, "tls_mode", "is 'privat'"),
        (
            "one",
            ACME | {"tls_acme_directory": "http://acme.example.org/dir"},
            "tls_acme_directory",
            "is 'http",
        ),
        ("one", ACME | {"tls_acme_email": "operator"}, "tls_acme_email", "is 'operator'"),
        ("one", ACME | {"tls_acme_key_type": "RSA"}, "tls_acme_key_type", "is 'RSA'"),
        ("one", ACME | {"tls_acme_eab_hmac": "a" * 30}, "tls_acme_eab_key_id", "is missing"),
        ("one", {"mirror_url": "https://one.example.org:8443"}, "mirror_url", "is 'https"),
    ],
)
def test_what_would_fail_half_way_is_told_before(
    host: str, changes: dict[str, str], key: str, problem: str
) -> None:
    (told,) = [p for p in problems_with(host, **changes) if p["key"] == key and p["host"] in (host, "all")]
    assert problem in told["problem"]


REFERENCE = (ROOT / "docs" / "inventory.md").read_text()


def test_the_reference_tells_every_key() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", REFERENCE, re.MULTILINE))
    assert set(rows) == {*MIRROR, *ORIGIN, *REDIRECTOR, *FLEET_KEYS, *TLS, *SELECTION_DEFAULTS}
    needed = {key for key, cell in rows.items() if cell == "yes"}
    assert needed == {*MIRROR_REQUIRED, *FLEET_REQUIRED, "origin_url", "origin_projects", "redirector_url"}


def test_the_references_examples_follow_the_contract() -> None:
    mirror, sections, tls, fleet, relay = (
        documents.parse(text.partition("\n  password: ")[0]).values
        for text in re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    )
    shared = documents.Document(fleet | sections, "fleet.yml")
    del tls["tls_acme_eab_key_id"]  # its key is a secret, which stands elsewhere
    record = documents.Document(mirror | tls, "mirrors/one.yml")
    assert rules.Fleet(shared, {"one": record}, TODAY).problems() == []
    assert {*mirror, *tls} >= {*MIRROR}
    assert {key: value for key, value in relay["fleet_mail_relay"].items() if key != "user"} == {
        "address": "relay.example.org:587",
        "from": "fleet@example.org",
    }


def test_an_origin_needs_a_url_and_projects() -> None:
    hostvars, groups = inventory()
    del hostvars["origin"]["origin_url"], hostvars["origin"]["origin_projects"]
    told = told_of(hostvars, groups)
    assert [(p["host"], p["key"], p["problem"]) for p in told] == [
        ("origin", "origin_url", "is missing"),
        ("origin", "origin_projects", "is missing"),
    ]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(MIRROR)), value=ANYTHING)
def test_no_value_breaks_the_check_or_the_documents(key: str, value: Any) -> None:
    """Whatever stands in a record is either told as a problem, or comes out in a registry that its schema allows."""
    hostvars, groups = inventory()
    hostvars["one"][key] = value
    told = told_of(hostvars, groups)
    assert all(set(p) == {"host", "file", "line", "key", "problem", "allowed", "next_step"} for p in told)
    assert all(p["problem"].isprintable() and len(p["problem"]) < 600 for p in told)
    if not told:
        jsonschema.validate(registry_of(fleet_of(hostvars, groups)), schema("registry"))


def schema(name: str) -> Any:
    return json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text())


def test_registry() -> None:
    hostvars, groups = inventory()
    registry = registry_of(fleet_of(hostvars, groups))
    jsonschema.Draft202012Validator.check_schema(schema("registry"))
    jsonschema.validate(registry, schema("registry"))
    assert [(m["name"], m["tier"], m["upstream"]) for m in registry["mirrors"]] == [
        ("one", 1, "origin"),
        ("three", 1, None),
        ("two", 2, "one"),
    ]
    assert registry["mirrors"][0]["agreement"]["accepted_on"] == "2026-11-20"
    assert registry["origins"] == [{"name": "origin", "url": "https://origin.example.org"}]


def test_the_registry_names_a_broken_record_and_keeps_a_lapsed_agreement() -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_agreement"]["version"] = "2020-01"
    assert len(registry_of(fleet_of(hostvars, groups))["mirrors"]) == 3
    hostvars["one"]["mirror_bandwidth"] = "much"
    one, _, two = registry_of(fleet_of(hostvars, groups))["mirrors"]
    assert one == {"name": "one", "problem": "mirror_bandwidth is text ('much')"}
    assert (two["name"], two["upstream"], two["tier"]) == ("two", "one", 2)


def config(host: str, hostvars: dict[str, Any], groups: Any, **more: Any) -> dict[str, Any]:
    fleet = fleet_of(hostvars, groups)
    for report in (fleet.reports["all"], fleet.reports.get(host)):
        if report:
            report.raise_if_any()
    return mirror_config(host_config(fleet, host), **more)


def test_configuration_of_each_mode() -> None:
    hostvars, groups = inventory()
    discovered = {"index_url": "https://index.example.net/root/simple/"}
    one = config("one", hostvars, groups)
    assert (one["upstream"], one["index_url"]) == (
        "https://origin.example.org",
        "https://origin.example.org/simple/",
    )
    assert one["selection"]["projects"] == ["six", "zope-interface"]
    assert "rsync" not in one
    two = config("two", hostvars, groups)
    assert two["rsync"] == {"source": "rsync://one.example.org/mirror"}
    three = config("three", hostvars, groups, discovered=discovered)
    assert three["upstream"] == "https://index.example.net/root"
    origin = config("origin", hostvars, groups, discovered=discovered, settings={"minimum_free_bytes": 0})
    assert (origin["mode"], origin["url"], origin["minimum_free_bytes"]) == (
        "origin",
        "https://origin.example.org",
        0,
    )
    assert origin["selection"]["projects"] == ["six", "zope-interface"]


def test_own_selection_comes_before_the_fleets() -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_selection"] = {"everything": True, "releases_kept": 2}
    selection = config("one", hostvars, groups)["selection"]
    assert (selection["everything"], selection["projects"], selection["releases_kept"]) == (True, [], 2)


@pytest.mark.parametrize(
    ("host", "more", "said"),
    [
        ("redirector", {}, "'redirector' is neither mirror nor origin"),
        ("nobody", {}, "'nobody' is neither mirror nor origin"),
        ("three", {}, "mirror_upstream: is not given, and no upstream was discovered"),
        ("three", {"discovered": {"index_url": "https://a b"}}, "discovered index_url"),
        ("one", {"settings": {"minimum_free_byte": 1}}, "did you mean minimum_free_bytes?"),
        ("one", {"settings": {"maximum_shrink_share": 2}}, "maximum_shrink_share: is 2"),
    ],
)
def test_configurations_that_cannot_be(host: str, more: dict[str, Any], said: str) -> None:
    hostvars, groups = inventory()
    with pytest.raises(BadValueError) as caught:
        config(host, hostvars, groups, **more)
    assert said in str(caught.value)


def test_bandersnatch_needs_an_index_at_simple() -> None:
    hostvars, groups = inventory()
    del hostvars["one"]["mirror_upstream"]
    with pytest.raises(BadValueError, match="does not end in /simple/"):
        config("one", hostvars, groups, discovered={"index_url": "https://index.example.net/+simple/"})
    assert config("three", hostvars, groups, discovered={"index_url": "https://index.example.net/+simple"})[
        "index_url"
    ] == ("https://index.example.net/+simple/")


@pytest.mark.parametrize("upstream", [["origin"], {"a": 1}, 5, "https://one.example.org", "one"])
def test_a_configuration_with_a_wrong_upstream(upstream: Any) -> None:
    hostvars, groups = inventory()
    hostvars["one"]["mirror_upstream"] = upstream
    with pytest.raises(BadValueError, match="one: mirror_upstream"):
        config("one", hostvars, groups)


def test_a_configuration_does_not_need_other_mirrors_to_be_sound() -> None:
    hostvars, groups = inventory()
    hostvars["two"]["mirror_mode"] = "nonsense"
    assert config("one", hostvars, groups)["mode"] == "bandersnatch"


def test_a_configuration_needs_a_sound_upstream() -> None:
    hostvars, groups = inventory()
    hostvars["origin"]["origin_url"] = "ftp://origin.example.org"
    with pytest.raises(BadValueError, match="origin: origin_url"):
        config("one", hostvars, groups)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"https://[ -~]{0,30}", fullmatch=True))
def test_a_url_that_passes_is_nothing_but_a_url(value: str) -> None:
    try:
        found = values.url(value, path=True)
    except values.BadValueError:
        return
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/.~+-_")
    assert values.url(found, path=True) == found


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_a_text_that_passes_is_one_line_and_stable(value: str) -> None:
    try:
        found = values.text(value)
    except values.BadValueError:
        return
    assert len(found.splitlines()) == 1
    assert values.text(found) == found


INDEX = "https://pypi.example.org"


def test_a_redirector_with_an_index_has_two_sites_and_one_certificate() -> None:
    hostvars, groups = inventory()
    assert fleet_of(hostvars, groups).groups["indexes"] == []
    hostvars["redirector"]["redirector_index_url"] = INDEX
    fleet = fleet_of(hostvars, groups, TODAY)
    assert fleet.problems() == [] and fleet.groups["indexes"] == ["redirector"]
    inputs = wiring.Wiring(fleet).inputs("redirector")
    assert inputs["names"] == ["list.example.org", "pypi.example.org"]
    assert (inputs["site_names"], inputs["index_names"]) == (["list.example.org"], ["pypi.example.org"])
    assert inputs["reference_url"] == "https://origin.example.org"
    assert inputs["index_shared"] == {"pypi.example.org": []}
    # Another redirector may answer for that name, too.
    groups["redirectors"].append("second")
    hostvars["second"] = hostvars["redirector"] | {"redirector_url": "https://second.example.org"}
    fleet = fleet_of(hostvars, groups, TODAY)
    assert fleet.problems() == []
    for name, other in (("redirector", "second.example.org"), ("second", "list.example.org")):
        assert wiring.Wiring(fleet).inputs(name)["index_shared"] == {"pypi.example.org": [other]}


def with_index(**more: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
    hostvars, groups = inventory()
    hostvars["redirector"] |= {"redirector_index_url": INDEX, **more}
    return hostvars, groups


def test_a_redirector_with_a_tree_of_its_own_is_filled_as_a_mirror_is() -> None:
    fleet = fleet_of(*with_index(), TODAY)
    assert fleet.groups["trees"] == [] and fleet.mode("redirector") == "cache"
    inputs = wiring.Wiring(fleet).inputs("redirector")
    assert (inputs["on_miss"], inputs["feeder"], inputs["carries_a_tree"]) == ("pass", "origin", False)
    assert "config" not in inputs

    fleet = fleet_of(*with_index(redirector_mode="rsync", redirector_upstream="origin"), TODAY)
    assert fleet.problems() == [] and fleet.groups["trees"] == ["redirector"]
    inputs = wiring.Wiring(fleet).inputs("redirector")
    assert (inputs["on_miss"], inputs["feeder"], inputs["carries_a_tree"]) == ("not_found", "origin", True)
    assert (inputs["config"]["mode"], inputs["config"]["url"]) == ("rsync", INDEX)
    assert mirror_config(inputs["config"])["rsync"]["source"] == "rsync://origin.example.org/mirror"
    # The origin lets it in.
    assert wiring.Wiring(fleet).inputs("origin")["rsync_clients"] == ["list.example.org"]

    chosen = {"projects": ["six"], "releases_kept": 2}
    more = {"redirector_upstream": "https://index.example.net/simple", "redirector_on_miss": "pass"}
    fleet = fleet_of(*with_index(redirector_mode="bandersnatch", redirector_selection=chosen, **more), TODAY)
    assert fleet.problems() == []
    inputs = wiring.Wiring(fleet).inputs("redirector")
    assert (inputs["on_miss"], inputs["feeder"]) == ("pass", None)
    assert inputs["config"]["selection"] == SELECTION_DEFAULTS | chosen
    assert inputs["config"]["index_url"] == "https://index.example.net/simple/"


@pytest.mark.parametrize(
    ("more", "key", "problem", "way_out"),
    [
        ({"redirector_mode": "tree"}, "mode", "is 'tree'", "cache, bandersnatch, rsync"),
        ({"redirector_upstream": "origin"}, "upstream", "has no effect on a cache", "bandersnatch or rsync"),
        ({"redirector_on_miss": "not_found"}, "on_miss", "would then serve nothing", "pass"),
        ({"redirector_mode": "rsync"}, "upstream", "is missing", "the inventory name of an origin"),
        (
            {"redirector_mode": "rsync", "redirector_upstream": "https://index.example.net"},
            "upstream", "is the URL of a host outside this inventory", "the inventory name of an origin",
        ),
        (
            {"redirector_mode": "rsync", "redirector_upstream": "orign"},
            "upstream", "names 'orign', which is no host of the inventory", "did you mean origin?",
        ),
        (
            {"redirector_mode": "rsync", "redirector_upstream": "one"},
            "upstream", "is one, a mirror", "it does not trust them",
        ),
        (
            {"redirector_mode": "bandersnatch", "redirector_upstream": "https://one.example.org"},
            "upstream", "is one, a mirror", "or the URL of an index",
        ),
        (
            {"redirector_mode": "bandersnatch", "redirector_upstream": "redirector"},
            "upstream", "is redirector, no origin", "the inventory name of an origin",
        ),
        (
            {"redirector_mode": "bandersnatch", "redirector_selection": {"projects": ["zope.interface"]}},
            "selection", "lacks six", "a selection with fleet_gate_project in it",
        ),
        (
            {"redirector_mode": "bandersnatch", "redirector_selection": {}},
            "selection", "selects nothing", "everything: true",
        ),
        (
            {
                "redirector_mode": "bandersnatch", "redirector_upstream": "origin",
                "redirector_selection": {"projects": ["six", "idna"]},
            },
            "selection", "names idna, which its upstream origin does not carry", "projects of the upstream",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_redirectors_tree(
    more: dict[str, Any], key: str, problem: str, way_out: str
) -> None:
    (told,) = told_of(*with_index(**more))
    assert (told["host"], told["key"]) == ("redirector", f"redirector_{key}")
    assert problem in told["problem"] and way_out in told["allowed"] + told["next_step"]


def test_a_tree_is_an_indexs_and_has_to_select_something() -> None:
    hostvars, groups = inventory()
    hostvars["redirector"] |= {"redirector_mode": "rsync", "redirector_upstream": "origin"}
    told = told_of(hostvars, groups)
    assert [one["key"] for one in told] == ["redirector_mode", "redirector_upstream"]
    assert {one["problem"] for one in told} == {"has no effect on a redirector without an index"}
    hostvars, groups = with_index(redirector_mode="bandersnatch")
    hostvars["one"] |= {"mirror_selection": {"projects": ["six"]}}
    for host in hostvars:
        del hostvars[host]["fleet_selection"]
    (one,) = told_of(hostvars, groups)
    assert (one["host"], one["key"]) == ("redirector", "redirector_selection")


def test_monitors_ask_more_often_where_clients_are_sent_by_it() -> None:
    """As often as a quarter of a core allows, and each minute at the least."""

    def pace(mirrors: int, **index: str) -> dict[str, float]:
        hostvars, groups = inventory()
        hostvars["redirector"] |= index
        wired = wiring.Wiring(fleet_of(hostvars, groups))
        wired.fleet.groups["mirrors"] = [f"m{number}" for number in range(mirrors)]
        found: dict[str, float] = wired.inputs("redirector")["pace"]
        return found

    assert pace(3) == {}
    index = {"redirector_index_url": INDEX}
    assert pace(3, **index) == {"interval": 5, "transition_interval": 5, "write_seconds": 1}
    assert [pace(number, **index)["interval"] for number in (50, 80, 600, 1000)] == [5, 8, 60, 60]
    assert pace(1000, **index)["transition_interval"] == 20


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://list.example.org", "is its redirector_url as well"),
        ("https://origin.example.org", "is origin's as well"),
        ("http://pypi.example.org", "is 'http://pypi.example.org'"),
    ],
)
def test_an_index_has_a_name_of_its_own(url: str, problem: str) -> None:
    (told,) = problems_with("redirector", redirector_index_url=url)
    assert told["key"].endswith("redirector_index_url") and problem in told["problem"]


def test_a_mirror_cannot_take_the_indexs_name() -> None:
    hostvars, groups = inventory()
    hostvars["redirector"]["redirector_index_url"] = INDEX
    hostvars["one"]["mirror_url"] = INDEX
    (told,) = told_of(hostvars, groups)
    assert (told["host"], told["key"], told["problem"]) == (
        "one",
        "mirror_url",
        f"{INDEX} is redirector's as well",
    )
