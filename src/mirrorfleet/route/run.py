"""The verb route: from registry, list, health and holds to the maps by which this host's nginx sends clients away.

What is known survives: while an input cannot be read, nginx goes on with the maps of before; a configuration that nginx
refuses is taken back.
"""

import json
import logging
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common import notes
from ..common.config import ConfigError, load_as, read_json
from ..common.files import write_atomically
from ..common.guards import only_one
from ..common.schema import InvalidDocumentError, accept
from ..fleet import registry
from ..fleet.evidence import printable
from ..fleet.standing import Inputs, Settings
from ..fleet.votes import Votes
from ..fleet.votes import votes as read_votes
from .nginx import GeoIP, render
from .pools import FAMILIES, Client, Routing, route
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
    limits: Limits = field(default_factory=Limits)
    settings: Settings = field(default_factory=Settings)  # the list's, by which monitors have votes


@dataclass
class Memory:
    """What outlives a run, and the monitors' absence."""

    monitors: dict[str, str] = field(default_factory=dict)  # by source, the name that it last gave
    mirrors: dict[str, Known] = field(default_factory=dict)


def write_routes(path: Path) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and what the summary tells."""
    config = load_as(RouteConfig, path)
    for family in config.families:
        if family not in FAMILIES:
            raise ConfigError(f"{path}: families: must be of {', '.join(FAMILIES)}, not {family!r}")
    with only_one(config.output.with_suffix(".lock"), patience=PATIENCE):
        return _in_turn(config)


def explain(path: Path, file: str, client: Client, **labels: str) -> tuple[bool, dict[str, Any]]:
    """What a client would be sent to, and why: by what is known now, without asking a mirror."""
    config = load_as(RouteConfig, path)
    found, _ = _routing(config, _remember(config))
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
        routing, problem = _routing(config, memory)
    except (ConfigError, InvalidDocumentError, OSError, ValueError, KeyError) as error:
        problem = printable(error)
        log.error(
            "%s: %s", "the routes stay as they are" if there else "clients get all of trusted hosts", problem
        )
        if there:
            return False, {"changed": False, "problem": problem}
        routing = Routing({})
    if (told := json.dumps(asdict(memory))) != former:
        write_atomically(_remembered(config), told.encode(), durable=False)
    if not there:
        # nginx cannot include them yet, nor test them; what it could refuse comes with the next run.
        config = replace(config, country=None, asn=None, test=(), reload=())
    geoip = GeoIP(*(database if _readable(database) else None for database in (config.country, config.asn)))
    changed, refused = _load(config, render(routing, geoip))
    if refused and (geoip.country or geoip.asn):
        # A database that is corrupt costs the knowledge where clients are, and nothing else.
        log.error("nginx refuses the routes; they are made without GeoIP databases: %s", refused)
        problem, geoip = refused, GeoIP()
        changed, refused = _load(config, render(routing, geoip))
    if refused:
        problem = refused
        log.error("nginx refuses the routes, which stay as they were: %s", refused)
    return not problem, {
        "changed": changed,
        "serving": sum(bool(one.serving) for one in routing.mirrors.values()),
        "known": len(routing.mirrors),
        "pools": len(routing.pools),
        "unrouted": {name: one.why_not for name, one in routing.mirrors.items() if one.why_not},
        "geoip": bool(geoip.country or geoip.asn),
        "problem": problem,
    }


def _readable(database: Path | None) -> bool:
    if database is None:
        return False
    if not database.is_file():
        log.error("%s is not there: where clients are is not known", database)
        return False
    return True


def _routing(config: RouteConfig, memory: Memory) -> tuple[Routing, str]:
    """By what is known now, which is put into the memory; and why that is less than it should be."""
    fleet = registry.load(config.registry)
    listed = listed_families(accept(read_json(config.list), "mirrors"))
    votes = read_votes(config.health, config.ca_file, memory.monitors)
    memory.mirrors = _known(votes, memory.mirrors, fleet.mirrors)
    held, now = registry.holds(config.holds), int(time.time())
    inputs = Inputs(fleet, votes.monitors, held, config.settings, now, votes.away)
    found = route(mirrors(Told(inputs, listed, memory.mirrors, config.families, config.limits)))
    return found, "" if votes.monitors else "no monitor can be asked; the list and what was known last count"


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
        return notes.fit(Memory, notes.read(path) or {})  # type: ignore[no-any-return]
    except (ValueError, OSError) as error:
        log.warning("%s: cannot be used: %s", path, error)
        return Memory()


def _load(config: RouteConfig, text: str) -> tuple[bool, str]:
    """Whether nginx has other routes than before, and why it refused them."""
    former = config.output.read_bytes() if config.output.is_file() else b""
    if former == text.encode():
        return False, ""
    write_atomically(config.output, text.encode())
    if refused := _run(config.test):
        write_atomically(config.output, former)
        return False, refused
    if refused := _run(config.reload):
        log.error("nginx was not told of the new routes: %s", refused)
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
