"""The verb list: from registry, health and holds to the published documents, replaced one by one by rename."""

import contextlib
import gc
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common import exposition, notes
from ..common.config import ConfigError, bounded, load_as
from ..common.files import entries, remove, write_atomically
from ..common.guards import RefusedError, only_one
from ..common.schema import schema
from ..fleet import documents, registry
from ..fleet.availability import FirstDay, first_day
from ..fleet.evidence import Proof
from ..fleet.health import Findings, proofs
from ..fleet.markup import static
from ..fleet.standing import FAMILIES, HIDDEN, Event, Inputs, Settings, Standing, step
from ..fleet.votes import Votes
from ..fleet.votes import votes as read_votes
from . import authority, mirror_page, signatures, status_page
from .signatures import Signer, Signing

log = logging.getLogger(__name__)

EVENTS_KEPT = 100
EVENTS_OF_A_MIRROR = 20
# Mirrors' pages made in a run, beside those of mirrors whose standing changed: a large fleet's take turns.
PAGES_A_RUN = 1000


@dataclass(frozen=True)
class ListConfig:
    registry: Path
    documents: Path
    state: Path
    health: tuple[str, ...]  # of each monitor its health.json, a file or a URL; the first's figures are shown
    ca_file: Path | None = None  # for those URLs
    holds: Path | None = None  # one file a mirror, named after it, with the reason in it
    metrics: Path | None = None  # for node_exporter's textfile collector
    url: str | None = None
    index_url: str | None = None
    authority: Path | None = (
        None  # the certificate of the fleet's own, for clients of mirrors that have theirs from it
    )
    metrics_port: int = bounded(1, 65535, default=9100)
    signing: Signing | None = None
    settings: Settings = field(default_factory=Settings)


@dataclass
class Memory:
    """What is remembered from run to run."""

    standings: dict[str, Standing] = field(default_factory=dict)
    letters: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    history: dict[str, list[Event]] = field(default_factory=dict)  # by mirror
    firsts: dict[str, FirstDay] = field(default_factory=dict)  # by mirror
    turn: int = 0  # whose page is the next to be made
    monitors: dict[str, str] = field(default_factory=dict)  # by source, the name that it last gave
    heard: int | None = None  # when a monitor last had a vote
    proofs: dict[str, list[Proof]] = field(default_factory=dict)  # by mirror, the newest last


PATIENCE = 60.0  # seconds; a run takes a few at most


def depends_on(config: ListConfig) -> list[Path]:
    """What a person decides by, which counts at once."""
    return [config.registry, *filter(None, [config.holds])]


def publish_list(path: Path, *, force: bool = False) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and what the summary tells. RefusedError when a guard says no."""
    # The service's run and a playbook's may meet, and so may two mirrors that are updated at once: each takes its turn,
    # by what is configured then. One that has waited may have been told another key to sign with.
    with only_one(_load(path).state.with_suffix(".lock"), patience=PATIENCE), collecting_later():
        return _publish_in_turn(_load(path), force=force)


def _load(path: Path) -> ListConfig:
    config = load_as(ListConfig, path)
    if not config.health:
        raise ConfigError(
            f"{path}: health: names no monitor; it has the health.json of each, a file or an https URL"
        )
    return config


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """A run keeps what it made until its end and makes no cycles: looking for some takes an eighth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _publish_in_turn(config: ListConfig, *, force: bool) -> tuple[bool, dict[str, Any]]:
    # Before anything can be refused: what is published stays, and so do its signatures.
    signer = Signer(config.signing, config.state.with_suffix(".signing")) if config.signing else None
    signatures.mend(signer, config.documents)
    known = registry.load(config.registry)
    memory = _remember(config, known)
    votes = read_votes(config.health, config.ca_file, memory.monitors)
    now = int(time.time())
    try:
        good, summary = _publish(config, known, memory, votes, now, signer=signer, force=force)
    except RefusedError:
        unsigned = signatures.unsigned(signer, config.documents)
        _tell(config, now, known, votes, refused=True, unsigned=len(unsigned))
        raise
    _tell(
        config, now, known, votes, memory.heard, refused=False, listed=summary["listed"],
        kept=bool(summary["cut_off"]), unsigned=len(summary["unsigned"]),
    )  # fmt: skip
    return good, summary


def _tell(
    config: ListConfig,
    now: int,
    known: registry.Registry,
    votes: Votes,
    heard: int | None = None,
    *,
    refused: bool,
    listed: int | None = None,
    kept: bool = False,
    unsigned: int,
) -> None:
    """Metrics of this run, for the alerts of a monitor."""
    if not config.metrics:
        return

    def one(name: str, text: str, value: float | None) -> exposition.Family:
        return exposition.gauge(f"mirrorfleet_list_{name}", text, value)

    families = [
        one("run_timestamp_seconds", "When the list was last made, or refused.", now),
        one("refused", "Whether the last run was refused: too many mirrors would have left.", refused),
        one("kept", "Whether the list was kept as it was, for the monitor is cut off.", kept),
        one("known_mirrors", "Mirrors of the registry.", len(known.mirrors)),
        one("invalid_mirrors", "Mirrors whose record cannot be used.", len(known.wrong)),
        one("listed_mirrors", "Mirrors on the list.", listed),
        one("unsigned_documents", "Documents that wait for a signature made elsewhere.", unsigned),
        one("heard_timestamp_seconds", "When a monitor last had a vote.", heard),
        (
            "mirrorfleet_list_monitor_heard",
            "Whether a monitor has a vote.",
            [({"source": told.name}, float(told.heard)) for told in votes.told],
        ),
        (
            "mirrorfleet_list_update_timestamp_seconds",
            "Since when a mirror is held for an update of the fleet.",
            [({"mirror": name}, since) for name, since in _updated_since(config.holds)],
        ),
    ]
    exposition.tell(config.metrics, families)


def _publish(
    config: ListConfig,
    known: registry.Registry,
    memory: Memory,
    votes: Votes,
    now: int,
    *,
    signer: Signer | None,
    force: bool,
) -> tuple[bool, dict[str, Any]]:
    trusted = authority.read(config.authority) if config.authority else None
    inputs = Inputs(known, votes.monitors, registry.holds(config.holds), config.settings, now, votes.away)
    outcome = step(inputs, memory.standings, force=force)
    votes.count(outcome.unheard)
    findings = votes.shown()
    if outcome.refused:
        raise RefusedError(
            f"{outcome.refused}; nothing was changed. Look at the monitor first: when every mirror seems dead, it is"
            " usually cut off itself. --force (redirector_force) publishes all the same"
        )
    for name, problem in known.wrong.items():
        log.error("registry: %s: %s", name, problem)
    for name, why in outcome.unheard.items():
        for problem in dict.fromkeys(why.values()):
            log.warning("monitor %s: %s", name, problem)
    if any(told.heard for told in votes.told):
        memory.heard = now
    memory.proofs = proofs(memory.proofs, votes.findings, outcome.standings)
    for event in outcome.events:
        log.warning("%s %s%s", event.subject, event.kind, f": {event.reason}" if event.reason else "")
    former = memory.standings
    memory.events = [*memory.events, *outcome.events][-EVENTS_KEPT:]
    for event in outcome.events:
        memory.history[event.mirror] = [*memory.history.get(event.mirror, []), event][-EVENTS_OF_A_MIRROR:]
    memory.letters = _letters(memory.letters, outcome.standings)
    memory.standings = outcome.standings
    memory.firsts = _firsts(memory, findings)
    found = documents.List(
        known, outcome.standings, findings, memory.letters, tuple(memory.events),
        config.url or "", config.index_url or "", config.metrics_port, now, memory.history, memory.firsts,
        votes.told, memory.heard, memory.proofs,
    )  # fmt: skip
    # All are rendered and checked before the first is replaced.
    mirrors = documents.entries(found)
    pages = {mirror["name"]: mirror_page.file_name(mirror["name"]) for mirror in mirrors}
    due = _due(config.documents / mirror_page.FOLDER, pages, former, memory)
    rendered = dict(render(found, mirrors, due, trusted, signer))
    folder = config.documents / mirror_page.FOLDER
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    changed = [name for name, data in rendered.items() if _replace(config, signer, name, data)]
    _remove_others(folder, set(pages.values()))
    if trusted is None:
        (config.documents / authority.FILE).unlink(missing_ok=True)
    if signer is None:
        (config.documents / signatures.FILE).unlink(missing_ok=True)
    if config.state.is_dir():
        remove(config.state)
    write_atomically(config.state, json.dumps({"schema": 1, **vars(memory)}, default=vars).encode())
    if outcome.cut_off:
        log.error("the list is kept as it is: %s", outcome.cut_off)
    return not outcome.cut_off, {
        "listed": sum(one.listed for one in outcome.standings.values()),
        "known": len(known.mirrors),
        "invalid": len(known.wrong),
        "changed": [name for name in changed if "/" not in name],
        "pages": sum("/" in name for name in changed),
        "events": [f"{event.subject} {event.kind}" for event in outcome.events],
        "cut_off": outcome.cut_off,
        "unsigned": signatures.unsigned(signer, config.documents),
    }


def _firsts(memory: Memory, findings: Findings) -> dict[str, FirstDay]:
    if findings.monitor is None:
        return memory.firsts
    found = {}
    for name, standing in memory.standings.items():
        today = findings.more.get(name, {}).get("today")
        if first := first_day(memory.firsts.get(name), standing.joined, findings.monitor.at, today):
            found[name] = first
    return found


def _due(folder: Path, pages: dict[str, str], former: dict[str, Standing], memory: Memory) -> set[str]:
    """Whose page is made: all in a fleet of up to PAGES_A_RUN; of a larger one who stands where it did not, whose page
    is not there, and those whose turn it is."""
    there = {entry.name for entry in entries(folder)}
    due = {
        name
        for name, file in pages.items()
        if file not in there or former.get(name) != memory.standings[name]
    }
    names = list(pages)
    due.update(names[memory.turn : memory.turn + PAGES_A_RUN])
    memory.turn = memory.turn + PAGES_A_RUN if memory.turn + PAGES_A_RUN < len(names) else 0
    return due


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Pages of mirrors that are gone, and what a killed run left."""
    for entry in entries(folder):
        if entry.name not in kept:
            remove(Path(entry.path))


def render(
    found: documents.List,
    mirrors: list[dict[str, Any]],
    due: set[str],
    trusted: authority.Authority | None = None,
    signer: Signer | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Every document by its name, the list itself last: who sees it new finds the others new, too."""
    index = documents.best(found, mirrors)
    needed = authority.needed(trusted, found.registry, index)
    main = documents.mirrors_json(found, mirrors)
    yield "mirrors.schema.json", json.dumps(schema("mirrors"), indent=2).encode() + b"\n"
    yield "style.css", static("style.css")
    # Browsers ask for one unasked, and the policy of the site lets them have it from here only.
    yield "icon.svg", static("icon.svg", __package__)
    yield "sort.js", static("sort.js", __package__)
    if trusted:
        yield authority.FILE, trusted.pem
    if signer:
        yield signatures.FILE, signer.public
    yield "pip.conf", pip_conf(index, needed)
    yield "uv.toml", uv_toml(index, needed)
    yield "mirrors.zone", documents.zone(found, mirrors)
    yield "metrics-targets.json", documents.metrics_targets(found)
    yield "probe-targets.json", documents.probe_targets(found)
    yield "feed.atom", documents.feed(found)
    for mirror in mirrors:
        if mirror["name"] in due:
            page = mirror_page.render(found, mirror, trusted)
            yield f"{mirror_page.FOLDER}/{mirror_page.file_name(mirror['name'])}", page
    yield "index.html", status_page.render(found, mirrors, index, trusted, signer)
    yield "mirrors-ipv4.txt", documents.mirrors_txt(mirrors, "ipv4")
    yield "mirrors-ipv6.txt", documents.mirrors_txt(mirrors, "ipv6")
    yield "mirrors.txt", documents.mirrors_txt(mirrors)
    yield "mirrors.json", main


def pip_conf(index: str, needed: authority.Authority | None) -> bytes:
    # pip knows a person's home in a path, and no folder of its file's.
    trust = f"# {authority.FILE} of this site, put into your home folder:\ncert = ~/{authority.FILE}\n"
    return f"[global]\nindex-url = {index}\n{trust if needed else ''}".encode()


def uv_toml(index: str, needed: authority.Authority | None) -> bytes:
    # uv takes it from the environment only.
    trust = f"# needs SSL_CERT_FILE in the environment, the path of this site's {authority.FILE}\n"
    return f'{trust if needed else ""}[[index]]\nurl = "{index}"\ndefault = true\n'.encode()


def _remember(config: ListConfig, known: registry.Registry) -> Memory:
    """What the last run knew. Without it, the published list itself says who was listed."""
    lost = set(known.mirrors)
    try:
        document = notes.read(config.state)
        memory, lost = _memory(document, config.state) if document is not None else (Memory(), lost)
    except (ValueError, OSError) as error:
        log.warning("%s: cannot be used: %s", config.state, error)
        memory = Memory()
    if lost:
        log.info(
            "%s: of %d mirrors the published list says whether they were listed", config.state, len(lost)
        )
        memory.standings |= {name: one for name, one in _published(config, known).items() if name in lost}
    return memory


def _memory(document: Any, source: Path) -> tuple[Memory, set[str]]:
    """What can be used of it, and of whom it is not known where they stood."""
    tables: dict[str, Any] = notes.fit(dict[str, Any], document)
    told = notes.fit(dict[str, Any], tables.get("standings"))
    tables["standings"] = {name: _before_votes(one) for name, one in told.items()}

    def usable(kind: Any, table: str, rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for name, row in rows:
            try:
                yield name, notes.fit(kind, row)
            except ValueError as error:
                log.warning("%s: %s of %s cannot be used: %s", source, table, name, error)

    def by_mirror(table: str, kind: Any) -> dict[str, Any]:
        return dict(usable(kind, table, single(table, dict[str, Any], {}).items()))

    def single(key: str, kind: Any, otherwise: Any) -> Any:
        return dict(usable(kind, key, [("it", tables.get(key, otherwise))])).get("it", otherwise)

    standings = by_mirror("standings", Standing)
    found = Memory(
        standings,
        {name: at for name, at in by_mirror("letters", int).items() if at >= 0},
        [event for _, event in usable(Event, "events", enumerate(single("events", list[Any], [])))],
        by_mirror("history", list[Event]),
        by_mirror("firsts", FirstDay),
        max(single("turn", int, 0), 0),
        single("monitors", dict[str, str], {}),
        single("heard", int | None, None),
        by_mirror("proofs", list[Proof]),
    )
    return found, tables["standings"].keys() - standings


def _published(config: ListConfig, known: registry.Registry) -> dict[str, Standing]:
    """Who is listed by the published list itself."""
    whole, now = _listed_urls(config, "mirrors.txt"), int(time.time())
    over = {family: _listed_urls(config, f"mirrors-{family}.txt") for family in FAMILIES}
    listed, withdrawn = (
        Standing(True, "listed", "", now, joined=now),
        Standing(False, "waiting", "not known", now),
    )
    standings = {}
    for name, record in known.mirrors.items():
        if name not in known.wrong and (url := f"{record['url']}/simple/") in whole:
            families = {one: listed if url in over[one] else withdrawn for one in record["address_families"]}
            known_over = any(one.listed for one in families.values())
            standings[name] = replace(listed, families=families if known_over else {})
    return standings


def _before_votes(told: Any) -> Any:
    """A standing of before there were several monitors: whose a wrong hash was is not known."""
    if isinstance(told, dict) and told.get("tampered_at") is not None:
        families = told.get("families")
        inner = (
            {name: _before_votes(one) for name, one in families.items()}
            if isinstance(families, dict)
            else families
        )
        return told | {"tampered": {"": told["tampered_at"]}, "families": inner}
    return told


def _listed_urls(config: ListConfig, name: str) -> set[str]:
    try:
        return set((config.documents / name).read_text("ascii").split())
    except (FileNotFoundError, UnicodeDecodeError):
        return set()


def _updated_since(folder: Path | None) -> Iterator[tuple[str, float]]:
    """Who is held for an update, as playbooks/update.yml says it, and since when (Unix seconds)."""
    for name, reason in registry.holds(folder).items():
        if folder and reason.startswith("being updated from"):
            with contextlib.suppress(OSError):
                yield name, (folder / name).stat().st_mtime


def _letters(before: dict[str, int], standings: dict[str, Standing]) -> dict[str, int]:
    """A mirror keeps its letter while it is known; the lowest that is free goes to who is listed next."""
    kept = {
        name: at for name, at in before.items() if name in standings and standings[name].code not in HIDDEN
    }
    free = iter(sorted(set(range(len(standings) + len(kept) + 1)) - set(kept.values())))
    for name, standing in sorted(standings.items()):
        if standing.listed and name not in kept:
            kept[name] = next(free)
    return kept


def _replace(config: ListConfig, signer: Signer | None, name: str, data: bytes) -> bool:
    """Only what differs is written, so that who asks again is told that nothing changed."""
    path = config.documents / name
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return False
    if signer and name in signer.documents:
        signatures.replace(signer, path, data)
    else:
        # Of mirrors' pages there are thousands; one that a power cut empties is made anew, for it differs.
        write_atomically(path, data, durable=path.parent == config.documents)
    return True
