"""The verb route: from registry, list, health and holds to the maps by which this host's nginx sends clients away.

What is known survives: while an input cannot be read, nginx goes on with the maps of before; a configuration that nginx
refuses is taken back.
"""

import json
import logging
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common.config import ConfigError, load_as, read_json
from ..common.files import write_atomically
from ..common.guards import only_one
from ..common.schema import InvalidDocumentError, accept
from ..fleet import health, registry
from ..fleet.evidence import printable
from ..fleet.health import Findings
from .nginx import GeoIP, render
from .pools import FAMILIES, Client, Routing, route
from .serving import Limits, Told, listed_families, mirrors

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; a run takes a few at most


@dataclass(frozen=True)
class RouteConfig:
    registry: Path
    list: Path  # mirrors.json, as this host publishes it
    health: str  # a file, or the URL of the monitor's health.json
    output: Path  # what nginx includes
    ca_file: Path | None = None  # for that URL
    holds: Path | None = None  # one file a mirror, named after it, with the reason in it
    families: tuple[str, ...] = FAMILIES  # the address families that this host has
    country: Path | None = None  # GeoIP2 databases (mmdb); without one the world is one pool
    asn: Path | None = None
    test: tuple[str, ...] = ("nginx", "-t", "-q")
    reload: tuple[str, ...] = ("systemctl", "reload", "nginx.service")
    limits: Limits = field(default_factory=Limits)


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
    choice = (found := _routing(load_as(RouteConfig, path))).choose(client, file, **labels)
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
    problem = ""
    try:
        routing = _routing(config)
    except (ConfigError, InvalidDocumentError, OSError, ValueError, KeyError) as error:
        problem = printable(error)
        log.error(
            "%s: %s", "the routes stay as they are" if there else "clients get all of trusted hosts", problem
        )
        if there:
            return False, {"changed": False, "problem": problem}
        routing = Routing({})
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


def _routing(config: RouteConfig) -> Routing:
    known = registry.load(config.registry)
    listed = listed_families(accept(read_json(config.list), "mirrors"))
    limits = config.limits
    told = Told(
        known, listed, _findings(config), registry.holds(config.holds), config.families, limits, int(time.time())
    )  # fmt: skip
    return route(mirrors(told))


def _remembered(config: RouteConfig) -> Path:
    return config.output.with_suffix(".health.json")


def _findings(config: RouteConfig) -> Findings:
    """What the monitor found; while it cannot be had, what it found last, at which nobody is held to have failed."""
    try:
        raw = health.fetch(config.health, config.ca_file)
        found = health.read(json.loads(raw))
    except (OSError, ValueError, RecursionError) as error:
        log.error("%s: %s; what it said last counts", config.health, printable(error))
        last = health.read(read_json(_remembered(config)))
        return replace(last, monitor=last.monitor and replace(last.monitor, at=0))
    if config.health.startswith("https://"):
        write_atomically(_remembered(config), raw, durable=False)
    return found


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
