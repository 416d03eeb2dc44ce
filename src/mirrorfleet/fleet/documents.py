"""From mirrors' standings to what a redirector publishes. Pure: each document is checked and returned as bytes."""

import datetime
import functools
import ipaddress
import json
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ..common.schema import InvalidDocumentError, validate
from .availability import DAY, FirstDay, counted
from .evidence import Proof, printable
from .health import Findings
from .registry import Registry, host_of, page_of
from .standing import FAMILIES, HIDDEN, Event, Standing

# What an entry takes over from the registry: nothing about a person but the name and page they chose.
PUBLIC = ("name", "url", "urls", "mode", "tier", "location", "bandwidth", "address_families")
ATOM = "http://www.w3.org/2005/Atom"
SECONDS_TO_LIVE = 300


class Heard(NamedTuple):
    """A monitor, whether it has a vote, and why not, or not everywhere."""

    name: str
    heard: bool
    problem: str = ""


@dataclass(frozen=True)
class List:
    """All that the documents tell."""

    registry: Registry
    standings: Mapping[str, Standing]
    findings: Findings
    letters: Mapping[str, int]
    events: tuple[Event, ...]
    url: str = ""  # where the documents are published
    index_url: str = ""  # the index that "use it" names; else the best mirror's
    metrics_port: int = 9100
    now: int = 0
    history: Mapping[str, Sequence[Event]] = field(default_factory=dict)  # by mirror, the newest last
    firsts: Mapping[str, FirstDay] = field(
        default_factory=dict
    )  # by mirror, the day when it was first listed
    monitors: Sequence[Heard] = ()
    heard: int | None = None  # when one of them last had a vote
    proofs: Mapping[str, Sequence[Proof]] = field(default_factory=dict)  # of wrong hashes, by mirror

    @property
    def kept_since(self) -> int | None:
        """Since when the list is as it was for what is measured; None while a monitor has a vote."""
        return None if not self.monitors or any(one.heard for one in self.monitors) else self.heard or 0

    @property
    def last(self) -> int:
        """The day, since 1970, that rows of days end with."""
        return (self.findings.monitor.at if self.findings.monitor else self.now) // DAY

    def days(self, name: str) -> list[float | None]:
        """The share of good rounds by day, as far as it counts."""
        days = self.findings.more.get(name, {}).get("days", [])
        return counted(days, self.last, self.standings[name].joined, self.firsts.get(name))


def entries(found: List) -> list[dict[str, Any]]:
    """The mirrors of mirrors.json, sorted by name."""
    return [
        _entry(found, name, standing)
        for name, standing in sorted(found.standings.items())
        # A record that is not valid cannot be told of without repeating what is wrong in it.
        if standing.code not in HIDDEN and name not in found.registry.wrong
    ]


def invalid(found: List) -> list[dict[str, Any]]:
    """Mirrors whose record is wrong: that they are there. What is wrong may be hostile, and is not repeated."""
    return [
        {"name": printable(name)[:253] or "?", "reason": "its record is not valid", "since": standing.since}
        for name, standing in sorted(found.standings.items())
        if name in found.registry.wrong and standing.code == "invalid"
    ]


def _entry(found: List, name: str, standing: Standing) -> dict[str, Any]:
    record, more = found.registry.mirrors[name], found.findings.more.get(name, {})
    health = found.findings.health.get(name)
    operator = record["operator"]
    return (
        {key: record[key] for key in PUBLIC}
        | _families(standing)
        | {
            "operator": {key: operator[key] for key in ("name", "url") if key in operator},
            "serial": health.serial if health else None,
            "last_modified": health.last_modified if health else None,
            "listed": standing.listed,
            "code": standing.code,
            "reason": standing.reason,
            "since": standing.since,
            "next": standing.next,
            "score": score(more.get("day")),
            "availability": availability(found.days(name)),
        }
        | ({"refused": more["refused"]} if more.get("refused") else {})
    )


def _families(standing: Standing) -> dict[str, Any]:
    """Of a listed mirror, the address families for which it is listed, and the others with why; else nothing."""
    if not standing.listed_families:
        return {}
    withdrawn = [
        {"family": family} | {key: getattr(one, key) for key in ("code", "reason", "since", "next")}
        for family, one in standing.families.items()
        if not one.listed
    ]
    listed = {"address_families": standing.listed_families}
    return listed | ({"withdrawn": withdrawn} if withdrawn else {})


def score(day: Mapping[str, float] | None) -> float | None:
    """archweb's formula, over a day: (hours behind + mean seconds + their deviation) / share of good probes."""
    if not day or not day["rounds"] or not day["good"]:
        return None
    return round((day["delay"] + day["duration"] + day["deviation"]) / (day["good"] / day["rounds"]), 2)


def availability(days: list[float | None]) -> float | None:
    known = [share for share in days if share is not None]
    return round(sum(known) / len(known), 4) if known else None


def mirrors_json(found: List, mirrors: list[dict[str, Any]]) -> bytes:
    fleet = found.registry.fleet
    document = {
        "schema": 1,
        "fleet": fleet["name"],
        "agreement_version": fleet["agreement_version"],
        "staleness_limit": fleet["staleness_limit"],
        "monitors": [one._asdict() for one in found.monitors],
        "mirrors": mirrors,
    } | ({"invalid": wrong} if (wrong := invalid(found)) else {})
    if found.kept_since is not None:
        document["kept_since"] = found.kept_since
    validate(document, "mirrors")
    # A line a mirror: to be read, compared and, in a large fleet, written in no time.
    lines = ",\n".join(json.dumps(mirror, sort_keys=True) for mirror in mirrors)
    head = json.dumps(document | {"mirrors": []}, sort_keys=True)
    return head.replace('"mirrors": []', f'"mirrors": [\n{lines}\n]', 1).encode() + b"\n"


def mirrors_txt(mirrors: Iterable[dict[str, Any]], family: str | None = None) -> bytes:
    lines = [
        f"{page_of(mirror['url'])}/simple/\n"
        for mirror in mirrors
        if mirror["listed"] and (family is None or family in mirror["address_families"])
    ]
    return "".join(lines).encode("ascii")


def letter(index: int) -> str:
    """PEP 381's host names: a to z, then aa, ab."""
    name = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("a") + rest) + name
    return name


def zone(found: List, mirrors: list[dict[str, Any]]) -> bytes:
    """Records to include in a zone: PEP 381's letters, the last of them, and each continent's addresses."""
    listed = [mirror for mirror in mirrors if mirror["listed"]]
    lettered = sorted(
        (found.letters[mirror["name"]], mirror) for mirror in listed if mirror["name"] in found.letters
    )
    lines = [f"; mirrors of a fleet; $INCLUDE this file in a zone\n$TTL {SECONDS_TO_LIVE}\n"]
    for index, mirror in lettered:
        lines += [f"{letter(index)} IN {one}\n" for one in _records(found, mirror)]
    if lettered:
        lines.append(f"last IN CNAME {letter(lettered[-1][0])}\n")
    continents: dict[str, set[str]] = {}
    for mirror in listed:
        # Two letters are also the 27th mirror and on: continents have a name of their own.
        records = continents.setdefault(f"continent-{mirror['location']['continent'].lower()}", set())
        records |= _addresses(found, mirror)
    lines += [f"{name} IN {one}\n" for name, records in sorted(continents.items()) for one in sorted(records)]
    return "".join(lines).encode("ascii")


def _records(found: List, mirror: dict[str, Any]) -> list[str]:
    """What a mirror's letter leads to: its name, or where a family is withdrawn the addresses that were measured of the
    others, for the name has those of both."""
    name = [f"CNAME {host_of(mirror['url'])}."]
    return (sorted(_addresses(found, mirror)) or name) if "withdrawn" in mirror else name


def _addresses(found: List, mirror: dict[str, Any]) -> set[str]:
    """Records of the addresses at which a mirror was measured, of the families for which it is listed."""
    records = set()
    for text in found.findings.more.get(mirror["name"], {}).get("addresses", []):
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidDocumentError(f"{mirror['name']}: {printable(text)} is no address") from error
        if f"ipv{address.version}" in mirror["address_families"]:
            records.add(f"{'AAAA' if address.version == 6 else 'A'} {address}")
    return records


def metrics_targets(found: List) -> bytes:
    """Prometheus' file_sd: where each mirror's node_exporter listens."""
    return _targets(found, lambda record: [(f"{host_of(record['url'])}:{found.metrics_port}", {})])


def probe_targets(found: List, families: Container[str] = FAMILIES) -> bytes:
    """Prometheus' file_sd: what the blackbox exporter asks, in each family that a mirror claims and the asker has."""
    return _targets(
        found,
        lambda record: [
            (f"{page_of(record['url'])}/simple/", {"family": family})
            for family in record["address_families"]
            if family in families
        ],
    )


def _targets(found: List, asked: Callable[[dict[str, Any]], list[tuple[str, dict[str, str]]]]) -> bytes:
    records = [
        record
        for name, record in sorted(found.registry.mirrors.items())
        if name not in found.registry.wrong and record["state"] != "retired"
    ]
    groups = [
        {
            "targets": [target],
            "labels": {
                "mirror": record["name"],
                "operator": record["operator"]["name"],
                "country": record["location"]["country"],
                "continent": record["location"]["continent"],
                "mode": record["mode"],
                "tier": str(record["tier"]),
            }
            | more,
        }
        for record in records
        for target, more in asked(record)
    ]
    return ("[\n" + ",\n".join(json.dumps(group, sort_keys=True) for group in groups) + "\n]\n").encode()


def feed(found: List) -> bytes:
    """Atom: who joined, returned, left; the newest first."""
    fleet = found.registry.fleet["name"]
    base = found.url or f"urn:fleet:{fleet}"
    root = ElementTree.Element("feed", xmlns=ATOM)

    def add(parent: ElementTree.Element, tag: str, text: str = "", **attributes: str) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, tag, attributes)
        element.text = xml_text(text) if text else None
        return element

    def identity(*parts: object) -> str:
        return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([base, *parts]))}"

    add(root, "title", f"{fleet}: mirrors")
    add(root, "id", identity("feed"))
    add(root, "updated", rfc3339(max((event.at for event in found.events), default=0)))
    add(add(root, "author"), "name", fleet)
    if found.url:
        add(root, "link", rel="self", href=f"{page_of(found.url)}/feed.atom")
        add(root, "link", rel="alternate", type="text/html", href=f"{page_of(found.url)}/")
    for event in reversed(found.events):
        entry = add(root, "entry")
        add(entry, "title", f"{event.subject} {event.kind}")
        add(entry, "id", identity(event.at, event.subject, event.kind))
        add(entry, "updated", rfc3339(event.at))
        add(entry, "category", term=event.kind)
        add(entry, "content", event.reason or f"{event.subject} is listed.", type="text")
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def xml_text(words: str) -> str:
    """Text without what XML cannot hold and without marks that turn the direction of what follows."""
    if words.isprintable():
        return words
    return "".join(character if character.isprintable() else " " for character in words)


@functools.lru_cache(10_000)
def rfc3339(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def best(found: List, mirrors: list[dict[str, Any]]) -> str:
    """The index that "use it" names."""
    if found.index_url:
        return page_of(found.index_url)
    listed = [mirror for mirror in mirrors if mirror["listed"]]
    ranked = sorted(
        listed,
        key=lambda mirror: (
            "withdrawn" in mirror,
            mirror["score"] is None,
            mirror["score"] or 0,
            mirror["name"],
        ),
    )
    return f"{page_of(ranked[0]['url'])}/simple/" if ranked else "https://MIRROR/simple/"
