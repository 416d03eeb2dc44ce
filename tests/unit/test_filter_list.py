"""The list of mirrors and its documents."""

from __future__ import annotations

import copy
import html.parser
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible.errors import AnsibleFilterError
from fleet_list import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st

FILTERS = FilterModule().filters()
ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "mirrors.schema.json").read_text())
NOW = 1_800_000_000


def registry(*names: str, **changes: Any) -> dict[str, Any]:
    """A registry of such mirrors; what is changed is changed in the first."""
    mirrors = [
        {
            "name": name,
            "url": f"https://{name}.example.org",
            "urls": [f"https://{name}.example.org"],
            "mode": "bandersnatch",
            "tier": 1,
            "state": "active",
            "upstream": None,
            "location": {
                "continent": "OC",
                "country": "NZ",
                "city": "Auckland",
                "latitude": -36.8,
                "longitude": 174.8,
            },
            "networks": [],
            "bandwidth": 1000,
            "address_families": ["ipv4", "ipv6"],
            "operator": {"name": "A. Person", "email": "person@example.org", "url": "https://example.org"},
            "agreement": {"version": "2026-11", "accepted_on": "2026-11-20", "expires_on": None},
        }
        for name in names
    ]
    mirrors[0] |= changes
    fleet = {
        "name": "Test fleet",
        "coordinator": {"name": "C", "email": "c@example.org"},
        "agreement_version": "2026-11",
        "staleness_limit": 86400,
    }
    return {"schema": 1, "fleet": fleet, "origins": [], "mirrors": mirrors}


def measured(**changes: Any) -> dict[str, Any]:
    good = {"ok": True, "measured_at": NOW - 5, "last_modified": NOW - 60, "serial": 12, "failures": []}
    return good | changes


def listing(of: dict[str, Any], measurements: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = FILTERS["mirror_list"](of, measurements, more.pop("holds", {}), NOW, **more)
    return found


def test_a_good_mirror_is_listed() -> None:
    (one,) = listing(registry("one"), {"one": measured()})
    assert (one["listed"], one["reason"], one["serial"]) == (True, "", 12)
    assert "email" not in one["operator"]


FAILURE = {"family": "ipv6", "check": "connection", "problem": "connection refused"}


@pytest.mark.parametrize(
    ("record", "measurement", "reason"),
    [
        ({"state": "drained"}, measured(), "drained by its operator"),
        ({"agreement": {"version": "2020-01"}}, measured(), "its agreement is not the fleet's current one"),
        (
            {"agreement": {"version": "2026-11", "expires_on": "2027-01-14"}},
            measured(),
            "its agreement is not the fleet's current one",
        ),
        ({}, None, "not measured yet"),
        ({}, measured(measured_at=NOW - 86401), "not measured for 24 hours"),
        ({}, measured(measured_at=NOW - 172800), "not measured for 2 days"),
        ({}, measured(ok=False, failures=[FAILURE]), "connection over ipv6: connection refused"),
        (
            {},
            measured(ok=False, failures=[FAILURE, FAILURE, FAILURE]),
            "connection over ipv6: connection refused (and 2 more)",
        ),
        ({}, measured(ok=False), "probe: failed"),
        ({}, measured(last_modified=NOW - 86401), "stale: last synced 24 hours ago"),
        ({}, measured(last_modified=NOW - 3 * 86400), "stale: last synced 3 days ago"),
        ({}, measured(last_modified=NOW + 301), "claims to be fresh as of 5 minutes from now"),
        ({}, measured(last_modified=None), "does not say how fresh it is (/last-modified)"),
    ],
)
def test_why_a_mirror_is_not_listed(
    record: dict[str, Any], measurement: dict[str, Any] | None, reason: str
) -> None:
    of = registry("one", **record)
    found = listing(of, {"one": measurement} if measurement else {})
    assert [(one["listed"], one["reason"]) for one in found] == [(False, reason)]
    jsonschema.validate(json.loads(FILTERS["mirrors_json"](found, of)), SCHEMA)


@pytest.mark.parametrize(
    ("record", "measurement"),
    [
        ({}, measured(last_modified=NOW - 86400)),
        ({}, measured(measured_at=NOW - 86400)),
        ({}, measured(last_modified=NOW + 300)),
        ({"agreement": {"version": "2026-11", "expires_on": "2027-01-15"}}, measured()),
        ({"mode": "cache"}, measured(last_modified=None, serial=None)),
    ],
)
def test_what_is_just_good_enough(record: dict[str, Any], measurement: dict[str, Any]) -> None:
    assert listing(registry("one", **record), {"one": measurement})[0]["listed"]


def test_a_hold_keeps_a_good_mirror_off_the_list() -> None:
    one, two = listing(
        registry("one", "two"), {"one": measured(), "two": measured()}, holds={"one": "being updated"}
    )
    assert (one["listed"], one["reason"], two["listed"]) == (False, "held: being updated", True)
    (one,) = listing(registry("one"), {"one": measured()}, holds={"one": ""})
    assert one["reason"] == "held: no reason given"


def test_a_retired_mirror_is_left_out() -> None:
    of = registry("one", "two", state="retired")
    assert [one["name"] for one in listing(of, {"one": measured(), "two": measured()})] == ["two"]
    assert "one" not in FILTERS["metrics_targets"](of)
    assert "two.example.org:9100" in FILTERS["metrics_targets"](of)


def test_the_staleness_limit_can_be_given() -> None:
    measurement = {"one": measured(last_modified=NOW - 120)}
    assert not listing(registry("one"), measurement, staleness_limit=60)[0]["listed"]


def test_a_list_is_not_emptied_by_accident() -> None:
    of, dead = registry("one", "two"), {"one": measured(ok=False, failures=[FAILURE])}
    before = json.loads(FILTERS["mirrors_json"](listing(of, {"one": measured()}), of))
    with pytest.raises(AnsibleFilterError) as caught:
        listing(of, dead, previous=before)
    assert "one: connection over ipv6: connection refused; two: not measured yet" in str(caught.value)
    assert "vantage host" in str(caught.value)
    assert not any(one["listed"] for one in listing(of, dead, previous=before, force=True))
    empty = json.loads(FILTERS["mirrors_json"](listing(of, dead), of))
    assert not any(one["listed"] for one in listing(of, dead, previous=empty))
    assert not any(one["listed"] for one in listing(of, dead, previous={}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], {}, {}, NOW), "the registry is"),
        (({"schema": 2}, {}, {}, NOW), "the registry is"),
        ((registry("one"), [], {}, NOW), "measurements is a list"),
        ((registry("one"), {}, ["one"], NOW), "holds is a list"),
        ((registry("one"), {"one": True}, {}, NOW), "measurements.one is true/false"),
        ((registry("one"), {"one": {"ok": True}}, {}, NOW), "measurements.one lacks measured_at"),
        ((registry("one"), {}, {}, "now"), "is text"),
        ((registry("one"), {}, {}, NOW, 5), "is 5"),
    ],
)
def test_inputs_of_another_shape(arguments: Any, said: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        FILTERS["mirror_list"](*arguments)
    assert said in str(caught.value)


def test_mirrors_txt_has_the_listed_ones_only() -> None:
    of = registry("one", "two", "three")
    found = listing(of, {"one": measured(), "three": measured()})
    assert (
        FILTERS["mirrors_txt"](found)
        == "https://one.example.org/simple/\nhttps://three.example.org/simple/\n"
    )
    assert FILTERS["mirrors_txt"](listing(of, {})) == ""


def test_documents_stay_the_same_while_nothing_changes() -> None:
    of = registry("one", "two")
    first = listing(of, {"one": measured(), "two": measured()})
    later = {
        "one": measured(measured_at=NOW - 1, last_modified=NOW - 2),
        "two": measured(certificate_expires=1),
    }
    assert listing(of, later) == first


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page; refuses a page whose elements are not closed in order."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_usable_without_anything_else() -> None:
    of = registry("one", "two")
    page = Page(FILTERS["mirrors_html"](listing(of, {"one": measured()}), of))
    names = [tag for tag, _ in page.tags]
    assert not {"script", "style", "link", "img", "iframe"} & set(names)
    assert {"caption", "main", "h1", "title"} <= set(names)
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    assert [attrs for tag, attrs in page.tags if tag == "html"] == [{"lang": "en"}]
    assert "1 of 2 mirrors are listed" in "".join(page.texts)
    assert "no: " in page.texts
    assert "not measured yet" in page.texts
    assert "12" in page.texts


HOSTILE = st.text(max_size=40) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</table>",
        "&lt;",
        "{name}",
        "'",
        "\u202e",
        "]]>",
        "-->",
    ]
)


@settings(max_examples=100, deadline=None)
@given(name=HOSTILE, city=HOSTILE, operator=HOSTILE, hold=HOSTILE, problem=HOSTILE)
def test_hostile_words_are_inert(name: str, city: str, operator: str, hold: str, problem: str) -> None:
    """Words come back as they are from every document, and no element comes out of them."""
    of = registry("one", "two")
    of["fleet"]["name"] = name
    of["mirrors"][0]["location"]["city"] = city
    of["mirrors"][0]["operator"]["name"] = operator
    failing = measured(ok=False, failures=[{"family": "ipv4", "check": "file", "problem": problem}])
    plain = registry("one", "two")
    measurements = {"one": measured(), "two": failing}
    found = listing(of, measurements, holds={"one": hold})
    calm = copy.deepcopy(listing(plain, measurements, holds={"one": "x"}))

    document = json.loads(FILTERS["mirrors_json"](found, of))
    assert document["fleet"] == name
    assert document["mirrors"] == found
    page, expected = Page(FILTERS["mirrors_html"](found, of)), Page(FILTERS["mirrors_html"](calm, plain))
    assert page.tags == expected.tags
    # CR and NUL never get past the inventory's own check; a parser of HTML may change them
    if not set(name + city + operator) & set("\r\0"):
        text = "".join(page.texts)
        assert all(word in text for word in (name, city, operator))


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", 'https://a.example/" onclick=x', "https://a\nb", "//a.example"]
)
def test_a_url_that_is_none_is_refused_by_the_documents(url: str) -> None:
    of = registry("one", operator={"name": "x", "email": "x@example.org", "url": url})
    with pytest.raises(AnsibleFilterError):
        FILTERS["mirrors_html"](listing(of, {"one": measured()}), of)
    of = registry("one", url=url)
    with pytest.raises(AnsibleFilterError):
        FILTERS["mirrors_txt"](listing(of, {"one": measured()}))


def test_metrics_targets() -> None:
    targets = json.loads(FILTERS["metrics_targets"](registry("one"), 9200))
    labels = {
        "mirror": "one",
        "operator": "A. Person",
        "country": "NZ",
        "continent": "OC",
        "mode": "bandersnatch",
        "tier": "1",
    }
    assert targets == [{"targets": ["one.example.org:9200"], "labels": labels}]
    with pytest.raises(AnsibleFilterError):
        FILTERS["metrics_targets"](registry("one"), 0)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    wrong = {
        "schema": 1,
        "fleet": "x",
        "agreement_version": "1",
        "staleness_limit": 60,
        "mirrors": [{"name": "one"}],
    }
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
