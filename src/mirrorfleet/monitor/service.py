"""The verb probe: a service that takes a round of every mirror, again and again, and tells what it found."""

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from ..common import exposition
from ..common.config import ConfigError
from ..common.files import write_atomically
from ..common.guards import only_one
from ..common.schema import validate
from ..fleet import documents, registry
from ..fleet.evidence import printable
from ..fleet.health import Findings
from ..fleet.registry import Registry
from ..fleet.standing import FAMILIES
from . import history, reports
from .population import Population
from .reach import Reach
from .reference import Reference, consult
from .round import Drawn, Round
from .settings import MonitorConfig, load_monitor
from .track import DAYS_KEPT, Store, Track

log = logging.getLogger(__name__)

DRAWN_AT_ONCE = 4  # projects that each look at the trusted index adds to what mirrors are asked for
PROMETHEUS_TIMEOUT = 20.0  # seconds without a byte of its answer
_chance = random.SystemRandom()


class Monitor:
    """The service: a task for each mirror, one for the reference, one that writes what is known."""

    def __init__(self, config: MonitorConfig, store: Store) -> None:
        self.config, self.store = config, store
        self.started = int(time.time())
        self.reference = Reference(serials=store.serials())
        self.tracks = store.tracks()
        self.registry: Registry = registry.load(config.registry)
        self._stamp, self._unreadable = self._registry_stamp(), ""
        self._reach = Reach(config)
        self._population = Population(config.state)
        self._drawn: dict[tuple[str, str], Drawn] = {}  # by the last round of each mirror and family
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
        families, limit = self._reach.families(record), self.registry.fleet["staleness_limit"]
        if not families:  # nothing can be said of it from here
            return
        rounds = [
            Round(
                self.config,
                self._reach,
                self.reference,
                record,
                family,
                before=self._drawn.get((name, family)),
            )
            for family in families
        ]
        found = await asyncio.gather(*(one.run(limit) for one in rounds))
        self._drawn |= {(name, one.family): one.drawn for one in rounds if one.drawn}
        track = self.tracks.setdefault(name, Track())
        failing, well_since = _failing(track), track.well_since
        seconds, now = time.monotonic() - started, int(time.time())
        track.add(dict(zip(families, found, strict=True)), self.reference, seconds, now, limit)
        self._dirty.add(name)
        self.rounds += 1
        if track.well_since != well_since:  # new, or well again: nobody returns without an audit
            self._call_for_audit(name)
        if failing != _failing(track) or any(one.tampered for one in found):
            log.log(*(_NEWS if track.good else (logging.WARNING, "%s: %s")), name, track.problem)

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
                runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                for address in ("127.0.0.1", "::1"):
                    with contextlib.suppress(OSError):  # a host without IPv6
                        await web.TCPSite(runner, address, self.config.metrics_port).start()
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
        settled = track is not None and track.settled >= self.config.settled_rounds
        return self.config.interval if settled else min(self.config.interval, self.config.transition_interval)

    async def _slotted(self, name: str) -> None:
        async with self._slots:
            try:
                await self.probe(name)
            except Exception:  # one mirror must not end the measurement of all others
                log.exception("%s: the probe itself failed", name)

    async def _ask_reference(self) -> None:
        before, wanted = self.reference.problem, self.config.reference
        drawn = await asyncio.to_thread(self._draw)
        await consult(self._reach, self.reference, wanted.projects, drawn, self._population.saw)
        if before and not self.reference.problem:
            self._call_for_audit("reference")  # without it no audit could be done
        if self.reference.problem != before:
            log.log(
                logging.WARNING if self.reference.problem else logging.INFO,
                "reference %s: %s", wanted.url, self.reference.problem or "answers",
            )  # fmt: skip

    def _draw(self) -> list[str]:
        """Projects that mirrors are asked for from now on, each of a mirror that is drawn by chance."""
        mirrors = list(self.registry.mirrors)
        found = set[str]()
        for name in _chance.sample(mirrors, min(len(mirrors), DRAWN_AT_ONCE)):
            selection = self.config.selection(name)
            known = [one for one in self.config.known if selection.includes(one)]
            found |= {*self._population.draw(DRAWN_AT_ONCE, selection, known).names}
        found -= {*self.config.reference.projects}
        return _chance.sample(sorted(found), min(len(found), DRAWN_AT_ONCE))

    def _call_for_audit(self, why: str) -> None:
        try:
            self.config.audit_due.write_text(f"{why}\n")
        except OSError as error:  # the timer has one begun all the same
            log.warning("%s: %s", self.config.audit_due, error)

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
            "families": [family for family in FAMILIES if self._reach.has(family)],
            "reference": reference,
            "mirrors": mirrors,
        }

    def tell_targets(self) -> None:
        if self.config.targets:
            listed = documents.List(self.registry, {}, Findings(), {}, ())
            write_atomically(self.config.targets / "metrics-targets.json", documents.metrics_targets(listed))
            own = [family for family in FAMILIES if self._reach.has(family)]
            write_atomically(self.config.targets / "probe-targets.json", documents.probe_targets(listed, own))

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
        rounds: list[exposition.Sample] = [
            ({"mirror": mirror, "family": family}, float(row["bad"]))
            for mirror, track in seen.items()
            for family, row in track.rounds.items()
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
                each("good_rounds", "Rounds in a row that were good in every family.", lambda one: one.good),
                each("bad_rounds", "Rounds in a row that failed in some family.", lambda one: one.bad),
                ("mirrorfleet_probe_family_bad_rounds", "Failed rounds in a row, by address family.", rounds),
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
                exposition.gauge("mirrorfleet_monitor_state_set_aside_timestamp_seconds",
                                 "When a state of the monitor that was corrupt was set aside.",
                                 max(filter(None, (self.store.set_aside_at, self._population.set_aside_at)),
                                     default=None)),
                ("mirrorfleet_monitor_late_seconds", "How late the last round began.", [({}, self.late)]),
                ("mirrorfleet_monitor_written_timestamp_seconds", "When this was told.", [({}, now)]),
            ]
        )  # fmt: skip

    async def _answer(self, _: web.BaseRequest) -> web.Response:
        """The metrics, whatever is asked."""
        return web.Response(body=self.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _failing(track: Track) -> set[str] | None:
    """The families that fail; None before the first round."""
    return {family for family, row in track.rounds.items() if row["bad"]} if track.rounds else None


_NEWS = (logging.INFO, "%s: is well again%s")


def probe(path: Path, *, once: bool = False) -> tuple[bool, dict[str, Any]]:
    """The service, or one round of all; good when a round found every mirror well."""
    config = load_monitor(path)
    config.state.mkdir(parents=True, exist_ok=True)
    with (
        only_one(config.state / "lock"),
        contextlib.closing(Store(config.state / "probe.sqlite", heals=True)) as store,
    ):

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
