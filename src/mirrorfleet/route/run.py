"""The verb route: from registry, list, health and holds to the maps by which this host's nginx sends clients away.

What is known survives: while an input cannot be read, nginx goes on with the maps of before; a configuration that nginx
refuses is taken back, by the next run where this one is killed. It runs every few seconds, and choosing takes as long
in a large fleet: so it chooses only when something changed that a choice depends on.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common import exposition, notes
from ..common.config import ConfigError, load_as, read_json
from ..common.files import write_atomically
from ..common.guards import only_one
from ..common.schema import InvalidDocumentError, accept
from ..fleet import registry
from ..fleet.evidence import printable
from ..fleet.standing import Inputs, Settings, silence
from ..fleet.votes import Votes
from ..fleet.votes import votes as read_votes
from .nginx import GeoIP, render
from .pools import FAMILIES, Client, Mirror, route
from .serving import Known, Limits, Told, listed_families, mirrors

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; a run takes a few at most


@dataclass(frozen=True)
class RouteConfig:
    registry: Path
    list: Path  # mirrors.json, as this host publishes it
    health: tuple[str, ...]  # of each monitor its health.json, a file or a URL, as the list has them
    output: Path  # what nginx includes
    ca_file: Path | None = None  # for those URLs
    holds: Path | None = None  # one file a mirror, named after it, with the reason in it
    families: tuple[str, ...] = FAMILIES  # the address families that this host has
    country: Path | None = None  # GeoIP2 databases (mmdb); without one the world is one pool
    asn: Path | None = None
    test: tuple[str, ...] = ("nginx", "-t", "-q")
    reload: tuple[str, ...] = ("systemctl", "reload", "nginx.service")
    metrics: Path | None = None  # for node_exporter's textfile collector
    limits: Limits = field(default_factory=Limits)
    settings: Settings = field(default_factory=Settings)  # the list's, by which monitors have votes


@dataclass
class Memory:
    """What outlives a run, and the monitors' absence."""

    monitors: dict[str, str] = field(default_factory=dict)  # by source, the name that it last gave
    mirrors: dict[str, Known] = field(default_factory=dict)
    made_of: str = ""  # a digest of what the routes were chosen by that nginx has
    made: str = ""  # and one of them


def depends_on(config: RouteConfig) -> list[Path]:
    """What counts at once: the list, and what a person decides by."""
    return [config.registry, config.list, *filter(None, [config.holds])]


def write_routes(path: Path) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and what the summary tells."""
    # Each takes its turn, by what is configured then.
    with only_one(_load_config(path).output.with_suffix(".lock"), patience=PATIENCE):
        config = _load_config(path)
        good, summary = _in_turn(config)
        _tell(config, summary)
        return good, summary


def _load_config(path: Path) -> RouteConfig:
    config = load_as(RouteConfig, path)
    for family in config.families:
        if family not in FAMILIES:
            raise ConfigError(f"{path}: families: must be of {', '.join(FAMILIES)}, not {family!r}")
    return config


def _tell(config: RouteConfig, summary: dict[str, Any]) -> None:
    """Metrics of this run, for the alerts of a monitor; none on a host without a monitoring agent."""
    if not config.metrics or not config.metrics.parent.is_dir():
        return

    def one(name: str, text: str, value: float | None) -> exposition.Family:
        return exposition.gauge(f"mirrorfleet_route_{name}", text, value)

    families = [
        one("run_timestamp_seconds", "When the routes were last looked at.", int(time.time())),
        one("kept", "Whether an input or nginx kept the last run from the routes that are due.", bool(summary["kept"])),
        one("heard_monitors", "Monitors whose findings are no older than is allowed.", summary.get("monitors") or 0),
        one("known_mirrors", "Mirrors whose record can be used.", summary.get("known")),
        one("serving_mirrors", "Mirrors that are sent clients.", summary.get("serving")),
    ]  # fmt: skip
    exposition.tell(config.metrics, families)


def explain(path: Path, file: str, client: Client, **labels: str) -> tuple[bool, dict[str, Any]]:
    """What a client would be sent to, and why: by what is known now, without asking a mirror."""
    config = load_as(RouteConfig, path)
    listed, _ = _mirrors(config, _remember(config))
    found = route(listed)
    choice = found.choose(client, file, **labels)
    return True, {
        "file": file,
        "address": client.address,
        "pool": choice.pool and str(choice.pool),
        "slot": choice.slot,
        "candidates": choice.candidates,
        "reason": choice.reason,
        "unrouted": {name: one.why_not for name, one in found.mirrors.items() if one.why_not},
    }


def _in_turn(config: RouteConfig) -> tuple[bool, dict[str, Any]]:
    there = config.output.is_file()
    memory = _remember(config)
    former = json.dumps(asdict(memory))
    try:
        found, monitors = _mirrors(config, memory)
        problem = kept = ""
        if monitors is None:
            problem = "no monitor can be asked; the list and what was known last count"
    except (ConfigError, InvalidDocumentError, OSError, ValueError, KeyError) as error:
        problem = kept = printable(error)
        log.error(
            "%s: %s", "the routes stay as they are" if there else "clients get all of trusted hosts", problem
        )
        if there:
            return False, {"changed": False, "problem": problem, "kept": kept}
        found, monitors = [], None
    if not there:
        # nginx cannot include them yet, nor test them; what it could refuse comes with the next run.
        config = replace(config, country=None, asn=None, test=(), reload=())
    changed, refused = _make(config, memory, found)
    if monitors and not (refused or problem):
        os.utime(config.output)  # what /route tells is as of now
    if (told := json.dumps(asdict(memory))) != former:
        write_atomically(_remembered(config), told.encode(), durable=False)
    return not (refused or problem), {
        "changed": changed,
        "serving": sum(bool(one.serving) for one in found),
        "known": len(found),
        "unrouted": {one.name: one.why_not for one in found if one.why_not},
        "monitors": monitors,
        "problem": refused or problem,
        "kept": refused or kept,
    }


def _mirrors(config: RouteConfig, memory: Memory) -> tuple[list[Mirror], int | None]:
    """By what is known now, which is put into the memory; and how many monitors tell news, None where none is read."""
    fleet = registry.load(config.registry)
    listed = listed_families(accept(read_json(config.list), "mirrors"))
    votes = read_votes(config.health, config.ca_file, memory.monitors)
    memory.mirrors = _known(votes, memory.mirrors, fleet.mirrors)
    held, now = registry.holds(config.holds), int(time.time())
    inputs = Inputs(fleet, votes.monitors, held, config.settings, now, votes.away)
    found = mirrors(Told(inputs, listed, memory.mirrors, config.families, config.limits))
    return found, sum(not silence(one, inputs) for one in votes.monitors) if votes.monitors else None


def _make(config: RouteConfig, memory: Memory, found: list[Mirror]) -> tuple[bool, str]:
    """Whether nginx has other routes than before, and what it refused of them."""
    databases = [_stamp(one) for one in (config.country, config.asn)]
    # Why one serves nobody changes with the clock, and changes no route. Another program may choose in another way.
    known = [vars(one) | {"why_not": ""} for one in found]
    made_of = _digest(json.dumps([os.path.realpath(sys.prefix), databases, known], default=sorted).encode())
    there = config.output.read_bytes() if config.output.is_file() else b""
    if memory.made_of == made_of and memory.made == _digest(there):
        return False, ""
    memory.made_of = ""
    routing = route(found)
    country, asn = (
        one if stamp else None for one, stamp in zip((config.country, config.asn), databases, strict=True)
    )
    changed, problem = _load(config, memory, render(routing, GeoIP(country, asn)) + "".join(databases))
    refused = problem
    if refused and (country or asn):
        # A database that is corrupt costs the knowledge where clients are, and nothing else.
        log.error("nginx refuses the routes; they are made without GeoIP databases: %s", refused)
        changed, refused = _load(config, memory, render(routing))
    if refused:
        log.error("nginx refuses the routes, or was not told of them: %s", refused)
    if not problem:
        memory.made_of = made_of
    return changed, refused or problem


def _stamp(database: Path | None) -> str:
    """A comment that changes with the database, which nginx reads when it is reloaded; "" where there is none."""
    if database is None:
        return ""
    try:
        about = database.stat()
    except OSError as error:
        log.error("%s: where clients are is not known: %s", database, error.strerror)
        return ""
    return f"# {database}: {about.st_size} bytes of {about.st_mtime_ns}\n"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _known(votes: Votes, before: Mapping[str, Known], names: Iterable[str]) -> dict[str, Known]:
    """What monitors tell of each mirror, the first the first; what none tells now, one told last."""
    found = {}
    for name in names:
        told = [one.more[name] for one in votes.findings if name in one.more]
        last = before.get(name, Known())
        addresses = next((one["addresses"] for one in told if one.get("addresses")), last.addresses)
        modified = [one["last_modified"] for one in told if one.get("last_modified") is not None]
        found[name] = Known(tuple(addresses), max(modified, default=last.last_modified))
    return found


def _remembered(config: RouteConfig) -> Path:
    return config.output.with_suffix(".memory.json")


def _remember(config: RouteConfig) -> Memory:
    path = _remembered(config)
    try:
        memory: Memory = notes.fit(Memory, notes.read(path) or {})
    except (ValueError, OSError) as error:
        log.warning("%s: cannot be used: %s", path, error)
        return Memory()
    return memory


def _load(config: RouteConfig, memory: Memory, text: str) -> tuple[bool, str]:
    """Whether nginx has other routes than before, and why it refused them or was not told."""
    former = config.output.with_suffix(".former")
    if former.exists():  # of a run that was killed before nginx had tested what it made
        os.replace(former, config.output)
    made = _digest(text.encode())
    if config.output.is_file():
        if memory.made == made == _digest(config.output.read_bytes()):
            return False, ""
        os.link(config.output, former)
    write_atomically(config.output, text.encode())
    if refused := _run(config.test):
        os.replace(former, config.output)
        return False, refused
    former.unlink(missing_ok=True)
    if refused := _run(config.reload):
        return True, refused
    memory.made = made
    return True, ""


def _run(command: tuple[str, ...]) -> str:
    """Why a command failed; "" when it did not, or when there is none."""
    if not command:
        return ""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return printable(f"{command[0]}: {error}")
    return (
        printable(done.stderr.strip()[-200:] or f"{command[0]} ended with {done.returncode}")
        if done.returncode
        else ""
    )
