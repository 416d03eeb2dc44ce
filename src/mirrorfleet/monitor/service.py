"""The verb probe: a service that asks every mirror, again and again, what its clients ask.

Each round makes a new TLS connection per claimed address family and asks, as pip would, for the freshness, the
serial, a known project's page and a known file of it: by HEAD, by a range, and whole against its hash where it is
small. Which file that is a mirror cannot foresee.
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import random
import re
import signal
import sqlite3
import ssl
import time
import zlib
from calendar import timegm
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common import exposition
from ..common.config import ConfigError, bounded, load_as
from ..common.files import write_atomically
from ..common.guards import only_one
from ..common.schema import validate
from ..fleet import documents, evidence, registry
from ..fleet.health import Findings, described
from ..fleet.registry import Registry
from ..fleet.standing import Settings, printable
from . import history, reports
from .client import (
    JSON_V1,
    PIP,
    PIP_FILE,
    CheckError,
    Line,
    Place,
    TamperedError,
    resolve,
    shown,
    trusting,
)
from .reference import File, Reference, ask, files_of

log = logging.getLogger(__name__)

HOUR, DAY = 3600, 86400
DAYS_KEPT, HOURS_KEPT = 30, 24
PROMETHEUS_TIMEOUT = 20.0  # seconds without a byte of its answer
_chance = random.SystemRandom()


@dataclass(frozen=True)
class ReferenceSettings:
    """The trusted index: an origin, a redirector, or upstream itself."""

    url: str
    projects: tuple[str, ...]  # small ones that every mirror carries
    seconds: int = bounded(1, default=60)  # between two looks at it


@dataclass(frozen=True)
class MonitorConfig:
    name: str
    registry: Path
    state: Path  # a folder
    health: Path
    reference: ReferenceSettings
    ca_file: Path | None = None
    targets: Path | None = None  # a folder for the targets of Prometheus (file_sd)
    metrics: Path | None = None  # for node_exporter's textfile collector
    metrics_port: int | None = bounded(1, 65535, default=None)  # on the loopback addresses
    prometheus: str | None = None  # its URL on this host; asked for the days that it remembers
    prometheus_seconds: int = bounded(1, default=6 * HOUR)  # between two times that it is asked
    interval: float = bounded(0.1, 86400, default=60)  # seconds between two rounds of a mirror
    transition_interval: float = bounded(
        0.1, 86400, default=20
    )  # of one that is new, or changed a moment ago
    settled_rounds: int = bounded(1, 1000, default=5)  # alike in a row, until it is neither
    timeout: float = bounded(0.1, 3600, default=10)  # of one request
    budget: float = bounded(0.1, 3600, default=30)  # of all requests of a round in one family
    workers: int = bounded(1, 4096, default=100)
    write_seconds: float = bounded(0.05, 3600, default=5)
    largest_file: int = bounded(0, default=200_000)  # bytes up to which a file is fetched whole
    private_addresses: bool = False  # mirrors may have them: a fleet within a network of its own
    connect_to: dict[str, list[str]] = field(
        default_factory=dict
    )  # addresses by mirror, instead of its name's
    fall: int = bounded(
        1, 1000, default=Settings.fall
    )  # as the list goes by: alerts say when a mirror leaves
    rise: int = bounded(1, 1000, default=Settings.rise)
    audit_seconds: int = bounded(60, default=DAY)  # an audit is due when the last is older
    audit_retry_seconds: int = bounded(1, default=300)  # until one that did not pass is repeated, at least
    audit_projects: tuple[str, ...] = ()  # looked at by audits; default: those of the reference
    removed_projects: tuple[str, ...] = ()  # that no mirror may serve any more
    audit_bytes: int = bounded(0, default=100_000_000)  # largest amount that one audit fetches of files

    @property
    def audits(self) -> Path:
        return self.state / "audits"

    @property
    def audit_due(self) -> Path:
        """Is there when a mirror is new or became well; what watches it starts `audit --due`, which removes it."""
        return self.state / "audit-due"


@dataclass
class Found:
    """What one round found in one family."""

    address: str = ""
    serial: int | None = None
    last_modified: int | None = None
    certificate_expires: int | None = None
    failure: dict[str, str] | None = None
    tampered: bool = False


@dataclass
class Track:
    """The history of a mirror; its sums are kept by hour for a day and by day for thirty."""

    measured_at: int = 0
    good: int = 0
    bad: int = 0
    since: int | None = None
    well: bool = False  # good, and fresh as far as the fleet's limit asks for it
    well_since: int | None = None
    last_good: int | None = None
    problem: str = ""
    families: dict[str, str] = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)
    serial: int | None = None
    last_modified: int | None = None
    lag: int | None = None
    certificate_expires: int | None = None
    tampered_at: int | None = None
    tampered: str = ""  # what had a wrong hash then
    failures: list[evidence.Failure] = field(default_factory=list)  # of the present row of failed rounds
    hours: list[list[float]] = field(
        default_factory=list
    )  # hour, rounds, good, seconds, seconds², hours behind
    days: list[list[float]] = field(default_factory=list)  # day, rounds, good

    def add(
        self, found: dict[str, Found], reference: Reference, seconds: float, now: int, staleness_limit: int
    ) -> None:
        failures = [one.failure for one in found.values() if one.failure]
        good = not failures
        if self.measured_at == 0 or good != (self.good > 0):
            self.since = now
        self.measured_at = now
        self.good, self.bad = (self.good + 1, 0) if good else (0, self.bad + 1)
        self.last_good = now if good else self.last_good
        self.problem = described(failures) if failures else ""
        self.families = {
            name: one.failure["problem"][:300] if one.failure else "" for name, one in found.items()
        }
        self.addresses = sorted({one.address for one in found.values() if one.address})
        if good:  # what a failed round did not get to know is no news
            self.serial = _least(one.serial for one in found.values())
            self.last_modified = _least(one.last_modified for one in found.values())
        self.lag = reference.lag(self.serial, now)
        self.certificate_expires = (
            _least(one.certificate_expires for one in found.values()) or self.certificate_expires
        )
        self.failures = evidence.kept(self.failures if self.bad > 1 else [], failures, now)
        if tampered := [one.failure for one in found.values() if one.tampered and one.failure]:
            self.tampered_at, self.tampered = now, described(tampered)
        age = max(now - self.last_modified, 0) if self.last_modified else 0
        well = good and max(age, self.lag or 0) <= staleness_limit
        if well and not self.well:
            self.well_since = now
        self.well = well
        behind = age / HOUR
        self._count(now, good, seconds, behind)

    def _count(self, now: int, good: bool, seconds: float, behind: float) -> None:
        if not self.hours or self.hours[-1][0] != now // HOUR:
            self.hours = [
                *(one for one in self.hours if one[0] > now // HOUR - HOURS_KEPT),
                [now // HOUR, 0, 0, 0, 0, 0],
            ]
        if not self.days or self.days[-1][0] != now // DAY:
            self.days = [*(one for one in self.days if one[0] > now // DAY - DAYS_KEPT), [now // DAY, 0, 0]]
        sums = (1, good, seconds * good, seconds * seconds * good, behind)
        self.hours[-1][1:] = [old + new for old, new in zip(self.hours[-1][1:], sums, strict=True)]
        self.days[-1][1:] = [old + new for old, new in zip(self.days[-1][1:], sums, strict=False)]

    def day(self) -> dict[str, float]:
        rounds, good, seconds, squares, behind = (sum(one[at] for one in self.hours) for at in range(1, 6))
        mean = seconds / good if good else 0.0
        return {
            "rounds": int(rounds),
            "good": int(good),
            "duration": round(mean, 4),
            "deviation": round(max(squares / good - mean * mean, 0) ** 0.5, 4) if good else 0.0,
            "delay": round(behind / rounds, 4) if rounds else 0.0,
        }

    def month(self, now: int, remembered: list[float | None] | None = None) -> list[float | None]:
        """The share of good rounds of each day. What is remembered of days that ended comes first."""
        days = month_of(now)
        shares = {int(day): good / rounds for day, rounds, good in self.days if rounds}
        shares |= {day: one for day, one in zip(days[:-1], remembered or [], strict=False) if one is not None}
        return [history.share(shares.get(day)) for day in days]

    def document(self, now: int, memory: history.History, name: str) -> dict[str, Any]:
        told = asdict(self)
        for own in ("hours", "failures", "tampered"):
            del told[own]
        days = month_of(now)
        told |= {"day": self.day(), "days": self.month(now, memory.row("available", name, days))}
        if rows := history.told(memory, name, days):
            told["history"] = rows
        return told


def month_of(now: int) -> range:
    """Thirty days, today last."""
    return range(now // DAY - DAYS_KEPT + 1, now // DAY + 1)


def _least(values: Any) -> int | None:
    return min((value for value in values if value is not None), default=None)


class Store:
    """Histories and the reference's serials, from one life of the service to the next."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS track (name TEXT PRIMARY KEY, document TEXT) STRICT"
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS serial (serial INTEGER PRIMARY KEY, at INTEGER) STRICT"
            )

    def tracks(self) -> dict[str, Track]:
        rows = self._database.execute("SELECT name, document FROM track")
        return {name: Track(**json.loads(document)) for name, document in rows}

    def serials(self) -> list[tuple[int, int]]:
        return [
            (at, serial)
            for serial, at in self._database.execute("SELECT serial, at FROM serial ORDER BY serial")
        ]

    def save(self, tracks: dict[str, Track], serials: list[tuple[int, int]]) -> None:
        with self._database:
            rows = [(name, json.dumps(asdict(track))) for name, track in tracks.items()]
            self._database.executemany("INSERT OR REPLACE INTO track VALUES (?, ?)", rows)
            self._database.executemany(
                "INSERT OR IGNORE INTO serial VALUES (?, ?)", [(serial, at) for at, serial in serials]
            )

    def close(self) -> None:
        self._database.close()


class Monitor:
    """The service: a task for each mirror, one for the reference, one that writes what is known."""

    def __init__(self, config: MonitorConfig, store: Store) -> None:
        self.config, self.store = config, store
        self.started = int(time.time())
        self.reference = Reference(serials=store.serials())
        self.tracks = store.tracks()
        self.registry: Registry = registry.load(config.registry)
        self._stamp, self._unreadable = self._registry_stamp(), ""
        self._context = trusting(config.ca_file)
        self._resolvers = ThreadPoolExecutor(32, "resolve")
        self._history, self._history_problem = history.History(), ""
        self._slots = asyncio.Semaphore(config.workers)
        self._dirty: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._told = 0
        self.late = 0.0  # seconds by which the last round began too late
        self.rounds = 0

    # --- one round ---

    async def probe(self, name: str) -> None:
        """One round of one mirror, in all its families at once."""
        record, started = self.registry.mirrors[name], time.monotonic()
        families = record["address_families"]
        found = await asyncio.gather(*(self._family(record, family) for family in families))
        track = self.tracks.setdefault(name, Track())
        before, well_since = track.good > 0, track.well_since
        seconds, now = time.monotonic() - started, int(time.time())
        limit = self.registry.fleet["staleness_limit"]
        track.add(dict(zip(families, found, strict=True)), self.reference, seconds, now, limit)
        self._dirty.add(name)
        self.rounds += 1
        if track.well_since != well_since:  # new, or well again: nobody returns without an audit
            self.config.audit_due.write_text(f"{name}\n")
        if before != (track.good > 0) or any(one.tampered for one in found):
            log.log(*(_NEWS if track.good else (logging.WARNING, "%s: %s")), name, track.problem)

    async def _family(self, record: dict[str, Any], family: str) -> Found:
        found, check = Found(), ["connection"]
        try:
            async with asyncio.timeout(self.config.budget):
                await self._checks(record, family, found, check)
        except TimeoutError:
            found.failure = {"problem": "took longer than the time for a round"}
        except CheckError as error:
            found.failure = {"problem": str(error)}
            found.tampered = isinstance(error, TamperedError)
        if found.failure:
            found.failure |= {"family": family, "check": check[0]}
        return found

    async def _checks(self, record: dict[str, Any], family: str, found: Found, check: list[str]) -> None:
        """Every check in turn, up to the first that fails; `check` says which one it is."""
        found.address = await self._address(record, family)
        place = Place.of(record["url"], found.address)
        async with Line(place, self._context, self.config.timeout) as line:
            await line.connect()
            try:
                if record["mode"] != "cache":
                    await self._freshness(line, found, check)
                # Files that were uploaded a moment ago are no mirror's fault.
                limit = time.time() - self.registry.fleet["staleness_limit"]
                files = [one for one in self.reference.files if one.uploaded <= limit] or self.reference.files
                if files:
                    file = _chance.choice(files)
                    check[0] = "project page"
                    file = await _named(line, file, files if record.get("partial") else [])
                    check[0] = "file"
                    await _file(line, file, self.config.largest_file)
            finally:
                found.certificate_expires = line.certificate_expires

    async def _address(self, record: dict[str, Any], family: str) -> str:
        place = Place.of(record["url"], "")
        given = self.config.connect_to.get(record["name"])
        if given is None:
            addresses = await resolve(
                place.host, family, self._resolvers, private=self.config.private_addresses
            )
        else:
            addresses = [one for one in given if (":" in one) == (family == "ipv6")]
        if not addresses:
            raise CheckError(f"{place.host} has no address in this family")
        return _chance.choice(addresses)

    async def _freshness(self, line: Line, found: Found, check: list[str]) -> None:
        check[0] = "last-modified"
        answer = (await line.ask("/last-modified", PIP_FILE, limit=100)).expect(200)
        found.last_modified = stamp_of(answer.body)
        check[0] = "serial"
        root = (await line.ask("/simple/", PIP, method="HEAD")).expect(200, JSON_V1)
        if root.serial is None:
            given = root.headers.get("x-pypi-last-serial")
            raise CheckError(f"/simple/ has no usable X-PyPI-Last-Serial header ({shown(given)})")
        found.serial = root.serial

    # --- the service ---

    async def once(self) -> None:
        """Every mirror a single time."""
        self.tell_targets()
        await asyncio.gather(self._ask_reference(), self._ask_prometheus())
        await asyncio.gather(*(self._slotted(name) for name in self._wanted()))
        self.write()

    async def serve(self) -> None:
        """Until the process is told to end."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.tell_targets()
        await self._ask_reference()
        async with contextlib.AsyncExitStack() as stack:
            if self.config.metrics_port:
                for address in ("127.0.0.1", "::1"):
                    with contextlib.suppress(OSError):  # a host without IPv6
                        server = await asyncio.start_server(self._answer, address, self.config.metrics_port)
                        await stack.enter_async_context(server)
            always = [
                asyncio.create_task(self._every(self.config.reference.seconds, self._ask_reference)),
                asyncio.create_task(self._every(self.config.write_seconds, self._keep)),
                asyncio.create_task(self._remember()),
            ]
            self._assign()
            log.info("%d mirrors, a round every %g s", len(self._tasks), self.config.interval)
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait([stopped, *always], return_when=asyncio.FIRST_COMPLETED)
            for task in (*always, *self._tasks.values()):
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error  # systemd starts the service anew, and its log says why
                task.cancel()
        self.write()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await work()

    def _wanted(self) -> list[str]:
        known = self.registry
        return [
            name
            for name, one in known.mirrors.items()
            if name not in known.wrong and one["state"] != "retired"
        ]

    def _assign(self) -> None:
        """A task for each mirror that has a valid record, and for no other."""
        wanted = set(self._wanted())
        for name in self._tasks.keys() - wanted:
            self._tasks.pop(name).cancel()
        for name in wanted - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._watch(name))

    async def _watch(self, name: str) -> None:
        """Rounds of a mirror, at a place in the interval that is its own; up to a tenth of it by chance."""
        loop, interval = asyncio.get_running_loop(), self.config.interval
        place = zlib.crc32(name.encode()) / 2**32
        due = loop.time() + place * self._pause(name)
        while True:
            before = self._pause(name)
            await asyncio.sleep(max(due + 0.1 * before * _chance.random() - loop.time(), 0))
            self.late = max(loop.time() - due - 0.1 * before, 0)
            await self._slotted(name)
            pause = self._pause(name)
            # Those that changed together are spread again when they settle.
            due = max(due + (pause if pause <= before else place * pause), loop.time() - interval)

    def _pause(self, name: str) -> float:
        """Seconds between two rounds; fewer while it is not yet clear whether a mirror is well."""
        track = self.tracks.get(name)
        settled = track is not None and max(track.good, track.bad) >= self.config.settled_rounds
        return self.config.interval if settled else min(self.config.interval, self.config.transition_interval)

    async def _slotted(self, name: str) -> None:
        async with self._slots:
            try:
                await self.probe(name)
            except Exception:  # one mirror must not end the measurement of all others
                log.exception("%s: the probe itself failed", name)

    async def _ask_reference(self) -> None:
        before, wanted = self.reference.problem, self.config.reference
        try:
            place = Place.of(wanted.url, "")
            # Through IPv6 when there is no IPv4: what counts is that it can be had.
            addresses = list(self.config.connect_to.get("reference", []))
            for family in ("ipv4", "ipv6"):
                if not addresses:
                    with contextlib.suppress(CheckError):
                        addresses = await resolve(place.host, family, self._resolvers, private=True)
            if not addresses:
                raise CheckError(f"{place.host} does not resolve")
            at = replace(place, base=f"https://{place.host}:{place.port}", address=_chance.choice(addresses))
            prefix = re.sub(r"^https://[^/]+", "", place.base).removesuffix("/simple")
            async with Line(at, self._context, self.config.timeout) as line:
                await ask(line, prefix, self.reference, wanted.projects, int(time.time()))
        except CheckError as error:
            self.reference.problem = str(error)
        if before and not self.reference.problem:
            self.config.audit_due.write_text("reference\n")  # without it no audit could be done
        if self.reference.problem != before:
            log.log(
                logging.WARNING if self.reference.problem else logging.INFO,
                "reference %s: %s", wanted.url, self.reference.problem or "answers",
            )  # fmt: skip

    async def _remember(self) -> None:
        await self._ask_prometheus()
        await self._every(self.config.prometheus_seconds, self._ask_prometheus)

    async def _ask_prometheus(self) -> None:
        """What it said before stays when it cannot be asked: only the past is asked for."""
        if not self.config.prometheus:
            return
        problem = ""
        try:
            self._history = await asyncio.to_thread(
                history.ask, self.config.prometheus, DAYS_KEPT, int(time.time()), PROMETHEUS_TIMEOUT
            )
        except history.HistoryError as error:
            problem = str(error)
        if problem != self._history_problem:
            log.log(
                logging.WARNING if problem else logging.INFO,
                "prometheus %s: %s", self.config.prometheus, problem or "answers",
            )  # fmt: skip
        self._history_problem = problem

    async def _keep(self) -> None:
        """Take a new registry over, write what changed."""
        stamp = self._registry_stamp()
        if stamp != self._stamp:
            try:
                self.registry = registry.load(self.config.registry)
                self._stamp, self._unreadable = stamp, ""
                self.tell_targets()
                log.info("the registry changed: %d mirrors", len(self.registry.mirrors))
            except ConfigError as error:  # tried again each time, told once
                if str(error) != self._unreadable:
                    log.error("the former registry stays in use: %s", error)
                self._unreadable = str(error)
        self._assign()
        self.write()

    def _registry_stamp(self) -> tuple[int, int]:
        try:
            status = os.stat(self.config.registry)
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    # --- what it tells ---

    def health(self, now: int) -> dict[str, Any]:
        audits = reports.summaries(self.config.audits)
        mirrors = {
            name: self.tracks[name].document(now, self._history, name)
            | ({"audit": audits[name]} if name in audits else {})
            for name in self._wanted()
            if name in self.tracks and self.tracks[name].measured_at
        }
        reference = {"problem": self.reference.problem[:500], "serial": self.reference.serial}
        return {
            "schema": 1,
            "monitor": self.config.name,
            "at": now,
            "started": self.started,
            "reference": reference,
            "mirrors": mirrors,
        }

    def tell_targets(self) -> None:
        if self.config.targets:
            listed = documents.List(self.registry, {}, Findings(), {}, ())
            write_atomically(self.config.targets / "metrics-targets.json", documents.metrics_targets(listed))
            write_atomically(self.config.targets / "probe-targets.json", documents.probe_targets(listed))

    def write(self) -> None:
        now = int(time.time())
        if now == self._told and not self._dirty:
            return
        document = self.health(now)
        validate(document, "health")
        self.store.save({name: self.tracks[name] for name in self._dirty}, self.reference.serials[-100:])
        write_atomically(self.config.health, json.dumps(document).encode() + b"\n", durable=False)
        if self.config.metrics:
            write_atomically(self.config.metrics, self.exposition(), durable=False)
        self._dirty.clear()
        self._told = now

    def exposition(self) -> bytes:
        """What Prometheus reads."""
        now = time.time()
        seen = {name: self.tracks[name] for name in self._wanted() if name in self.tracks}

        def each(
            name: str, text: str, value: Callable[[Track], float | None]
        ) -> tuple[str, str, list[exposition.Sample]]:
            samples = [({"mirror": mirror}, value(track)) for mirror, track in seen.items()]
            return (
                f"mirrorfleet_probe_{name}",
                text,
                [(labels, one) for labels, one in samples if one is not None],
            )

        families = [
            ({"mirror": mirror, "family": family}, float(not problem))
            for mirror, track in seen.items()
            for family, problem in track.families.items()
        ]
        failures: list[exposition.Sample] = [
            ({"mirror": mirror, "family": family, "check": check, "problem": problem}, float(at))
            for mirror, track in seen.items()
            for family, check, problem, at in track.failures
        ]
        tampered: list[exposition.Sample] = [
            ({"mirror": mirror, "problem": printable(track.tampered)}, 1.0)
            for mirror, track in seen.items()
            if track.tampered_at
        ]
        reference: list[exposition.Sample] = [({}, float(not self.reference.problem))]
        return exposition.render(
            [
                ("mirrorfleet_probe_success", "Whether the last round of probes passed, by address family.", families),
                each("good_rounds", "Good rounds in a row.", lambda one: one.good),
                each("bad_rounds", "Failed rounds in a row.", lambda one: one.bad),
                each("last_round_timestamp_seconds", "When the last round ended.", lambda one: one.measured_at),
                each("last_modified_timestamp_seconds", "When it last had everything.", lambda one: one.last_modified),
                each("serial", "Serial of the mirror's list of projects.", lambda one: one.serial),
                each("lag_seconds", "Since when the reference has had what the mirror has not.", lambda one: one.lag),
                each("certificate_expiry_timestamp_seconds", "End of the certificate.",
                     lambda one: one.certificate_expires),
                each("duration_seconds", "Mean length of the good rounds of a day.", lambda one: one.day()["duration"]),
                each("tampered_timestamp_seconds", "When a file had a wrong hash.", lambda one: one.tampered_at),
                ("mirrorfleet_probe_tampered_info", "What had a wrong hash then.", tampered),
                each("since_timestamp_seconds", "When the present row of good or failed rounds began.",
                     lambda one: one.since),
                each("last_good_timestamp_seconds", "When a round was last good.", lambda one: one.last_good),
                ("mirrorfleet_probe_failure_timestamp_seconds",
                 "When this was last found wrong, in the present row of failed rounds.", failures),
                *reports.metrics(self.config.audits, seen),
                ("mirrorfleet_probe_active", "Whether its record says that it is to serve.",
                 [({"mirror": name}, float(self.registry.mirrors[name]["state"] == "active")) for name in seen]),
                ("mirrorfleet_monitor_reference_up", "Whether the trusted index answered.", reference),
                ("mirrorfleet_monitor_reference_failure_info", "Why it did not.",
                 [({"problem": printable(problem)}, 1.0) for problem in [self.reference.problem] if problem]),
                ("mirrorfleet_monitor_staleness_limit_seconds", "Age at which a mirror is too old.",
                 [({}, float(self.registry.fleet["staleness_limit"]))]),
                ("mirrorfleet_monitor_transition_interval_seconds", "Between two rounds of one that changed lately.",
                 [({}, min(self.config.interval, self.config.transition_interval))]),
                ("mirrorfleet_monitor_fall_rounds", "Failed rounds until a mirror leaves.", [({}, self.config.fall)]),
                ("mirrorfleet_monitor_rise_rounds", "Good rounds until it returns.", [({}, self.config.rise)]),
                ("mirrorfleet_monitor_rounds", "Rounds since the start.", [({}, float(self.rounds))]),
                ("mirrorfleet_monitor_late_seconds", "How late the last round began.", [({}, self.late)]),
                ("mirrorfleet_monitor_written_timestamp_seconds", "When this was told.", [({}, now)]),
            ]
        )  # fmt: skip

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """GET /metrics, whatever is asked."""
        try:
            async with asyncio.timeout(10):
                await reader.readuntil(b"\r\n\r\n")
                body = self.exposition()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n"
                writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            writer.close()


_NEWS = (logging.INFO, "%s: is well again%s")


def stamp_of(body: bytes) -> int:
    text = body.decode("ascii", "replace").strip()
    try:
        return timegm(time.strptime(text, "%Y%m%dT%H:%M:%S"))
    except ValueError as error:
        raise CheckError(f"/last-modified says {shown(text)}, expected YYYYMMDDTHH:MM:SS") from error


async def _named(line: Line, file: File, others: list[File]) -> File:
    """A project's page, asked for as pip does, names a file that is no news with the right hash. A partial mirror may
    lack it and has another one of the same project."""
    page = f"/simple/{file.project}/"
    answer = (await line.ask(page, PIP)).expect(200, JSON_V1)
    named = {one.name: one for one in files_of(answer.json(), file.project, page)}
    if file.name not in named:
        there = [one for one in others if one.project == file.project and one.name in named]
        if not there:
            raise CheckError(f"{page} lacks {file.name}")
        file = _chance.choice(there)
    if named[file.name].sha256 != file.sha256:
        raise TamperedError(f"{page} says that {file.name} has the sha256 {named[file.name].sha256}")
    return file


async def _file(line: Line, file: File, largest: int) -> None:
    head = (await line.ask(file.path, PIP_FILE, method="HEAD")).expect(200)
    length = head.headers.get("content-length")
    if file.size is not None and length != str(file.size):
        raise CheckError(f"{file.path} has {shown(length)} bytes by HEAD, {file.size} by the trusted page")
    if not re.fullmatch(r"[0-9]{1,15}", length or ""):
        raise CheckError(f"{file.path} does not say how long it is")
    size = int(length or 0)
    if size >= 2:
        first = _chance.randrange(size - 1)
        last = min(first + 99, size - 1)
        part = await line.ask(file.path, PIP_FILE | {"Range": f"bytes={first}-{last}"}, limit=101)
        if len(part.expect(206).body) != last - first + 1:
            raise CheckError(f"{file.path} gave {len(part.body)} bytes for a range of {last - first + 1}")
    if size <= largest:
        body = (await line.ask(file.path, PIP_FILE, limit=largest + 1)).expect(200).body
        expect_hash(body, file)


def expect_hash(body: bytes, file: File) -> None:
    got = hashlib.sha256(body).hexdigest()
    if got != file.sha256:
        raise TamperedError(f"{file.path} has the sha256 {got}, the trusted page says {file.sha256}")


def probe(path: Path, *, once: bool = False) -> tuple[bool, dict[str, Any]]:
    """The service, or one round of all; good when a round found every mirror well."""
    config = load_monitor(path)
    config.state.mkdir(parents=True, exist_ok=True)
    with only_one(config.state / "lock"), contextlib.closing(Store(config.state / "probe.sqlite")) as store:

        async def run() -> Monitor:
            monitor = Monitor(config, store)
            await (monitor.once() if once else monitor.serve())
            return monitor

        monitor = asyncio.run(run())
    failing = {name: track.problem for name, track in monitor.tracks.items() if track.bad}
    return not (once and (failing or monitor.reference.problem)), {
        "mirrors": len(monitor.tracks),
        "failing": failing,
        "reference": monitor.reference.problem,
    }


def load_monitor(path: Path) -> MonitorConfig:
    config = load_as(MonitorConfig, path)
    if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+/-]*)?", config.reference.url):
        raise ConfigError(
            f"{path}: reference.url: must be https://NAME[:PORT][/PATH], not {config.reference.url!r}"
        )
    if config.prometheus and not re.fullmatch(
        r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9._~+-]+)*", config.prometheus
    ):
        raise ConfigError(
            f"{path}: prometheus: must be http://127.0.0.1[:PORT][/PATH] (or localhost, [::1]), this host's own, not"
            f" {config.prometheus!r}"
        )
    if not config.reference.projects:
        raise ConfigError(
            f"{path}: reference.projects: names none; small ones that every mirror carries are needed"
        )
    for at, name in enumerate((*config.reference.projects, *config.audit_projects, *config.removed_projects)):
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise ConfigError(f"{path}: project {at + 1} is {name!r}, no normalised project name")
    for name, addresses in config.connect_to.items():
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise ConfigError(f"{path}: connect_to.{name}: {address!r} is no address") from error
    try:
        ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise ConfigError(f"{path}: ca_file: {config.ca_file} cannot be used: {error}") from error
    return config
