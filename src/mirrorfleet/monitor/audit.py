"""The verb audit: is a mirror a conforming index, does it tell the truth, is it complete?

It asks as pip and uv ask, and compares pages with the trusted index and files with its hashes. One wrong hash is enough
to keep a mirror off the list until a later audit passes (fleet/standing.py).
"""

import asyncio
import json
import logging
import random
import time
from pathlib import Path
from typing import Any

from ..common.config import ConfigError
from ..common.files import remove, write_atomically
from ..common.guards import only_one
from ..fleet import registry
from ..fleet.markup import static
from . import reports
from .client import CheckError, Place
from .conformance import Conformance
from .population import Claims, claims
from .reach import Reach
from .reference import Reference
from .report import Report
from .report_page import page
from .settings import MonitorConfig, load_monitor
from .track import Store, Track, saved
from .trusted import Sample, Trusted
from .truth import Truth

log = logging.getLogger(__name__)

AT_ONCE = 8
PATIENCE = 1800.0  # seconds
LONGEST_RETRY = 3600  # seconds until an audit that did not pass is repeated, however long it fails
_chance = random.SystemRandom()


class Auditor:
    def __init__(
        self, config: MonitorConfig, known: registry.Registry, reach: Reach, trusted: Trusted
    ) -> None:
        self.config, self.known, self.reach, self.trusted = config, known, reach, trusted

    async def audit(self, name: str) -> Report:
        record, limit = self.known.mirrors[name], self.known.fleet["staleness_limit"]
        # Who has no way in any of them finds that it cannot be reached; nothing is not to pass.
        families = self.reach.families(record) or record["address_families"]
        report = Report(name, record["url"], int(time.time()), families=tuple(families))
        places = {}
        for family in families:
            try:
                places[family] = await self.reach.mirror(record, family)
            except CheckError as error:
                report.tell("connection", False, str(error), family)
        sample = await self._sample(record, list(places.values()))
        report.drawn(sample.population, sample.of)
        reached = {}
        for family, place in places.items():
            async with self.reach.line(place) as line:
                project = sample.ripe(time.time() - limit) or _chance.choice(self.config.reference.projects)
                await Conformance(line, report, family, record, project).run()
                if line.certificate_expires:
                    reached[family] = place
        if reached:
            # What fails in one family is not to be met in what counts for all.
            sound = [place for family, place in reached.items() if not report.failed_over(family)]
            lines = [self.reach.line(place) for place in sound or reached.values()]
            try:
                await Truth(lines, report, record, self.trusted, sample).run(limit)
            finally:
                for line in lines:
                    line.close()
        return report

    async def _sample(self, record: dict[str, Any], places: list[Place]) -> Sample:
        """Also by what the mirror claims to carry, at an address that answers; a cache's list is its upstream's."""
        claimed = Claims()
        for place in places if record["mode"] != "cache" else ():
            async with self.reach.line(place) as line:
                claimed = await claims(line)
            if claimed.named:
                break
        return await self.trusted.sample(record, claimed)


def due(config: MonitorConfig, known: registry.Registry, now: int) -> list[str]:
    """Who was not audited for long, did not pass the last audit, or became well or served a wrong hash since then."""
    tracks: dict[str, Track] = saved(config.state / "probe.sqlite", Store.tracks, {})
    found = []
    for name, record in known.mirrors.items():
        if name in known.wrong or record["state"] != "active":
            continue
        report = reports.report(config.audits, name) or {"started": 0, "verdict": ""}
        last, track = report["started"], tracks.get(name)
        recovered = track is not None and track.well and (track.well_since or 0) > last
        tampered = track is not None and (track.tampered_at or 0) > last
        pause = config.audit_seconds
        if report["verdict"] in ("failed", "tampered"):
            failing = 0 if recovered or tampered else last - report.get("failed_since", last)
            pause = min(pause, max(config.audit_retry_seconds, min(failing, LONGEST_RETRY)))
        elif recovered or tampered:
            pause = -1
        if now - last > pause:
            found.append(name)
    return found


def audit(path: Path, names: list[str], *, only_due: bool = False) -> tuple[bool, dict[str, Any]]:
    """Audit mirrors and keep the reports; good when each of them passed."""
    config = load_monitor(path)
    known = registry.load(config.registry)
    for name in names:
        if name not in known.mirrors or name in known.wrong:
            raise ConfigError(
                f"{config.registry}: {name!r}: {known.wrong.get(name, 'is no mirror of the registry')}"
            )
    config.audits.mkdir(parents=True, exist_ok=True)
    # Runs take turns, a person's and those of timer and path.
    with only_one(config.state / "audit.lock", patience=PATIENCE):
        if only_due:
            remove(config.audit_due)
        if not names:
            chosen = (
                due(config, known, int(time.time()))
                if only_due
                else sorted(known.mirrors.keys() - known.wrong)
            )
            names = [name for name in chosen if known.mirrors[name]["state"] != "retired"]
        try:
            documents = asyncio.run(_audit_all(config, known, names))
        except CheckError as error:
            # Nothing can be said of any mirror: their last reports stay.
            log.error("the trusted index %s: %s", config.reference.url, error)
            return False, {"audited": 0, "verdicts": {}, "problem": str(error)}
    verdicts = {document["mirror"]: document["verdict"] for document in documents}
    good = len(verdicts) == len(names) and all(verdict == "passed" for verdict in verdicts.values())
    return good, {"audited": len(documents), "verdicts": verdicts, "problem": ""}


async def _audit_all(
    config: MonitorConfig, known: registry.Registry, names: list[str]
) -> list[dict[str, Any]]:
    if not names:
        return []
    reach = Reach(config)
    history = Reference(serials=saved(config.state / "probe.sqlite", Store.serials, []))
    auditor = Auditor(config, known, reach, await Trusted.ask(config, reach, history))
    slots = asyncio.Semaphore(AT_ONCE)
    write_atomically(config.audits / "style.css", static("style.css"))

    async def one(name: str) -> dict[str, Any] | None:
        try:
            return await audited(name)
        except CheckError as error:  # its last report stays
            log.error("%s: nothing can be said of it: the trusted index: %s", name, error)
            return None
        except Exception:  # one mirror must not end the audits of all others
            log.exception("%s: the audit itself failed", name)
            return {"mirror": name, "verdict": "inconclusive"}

    async def audited(name: str) -> dict[str, Any]:
        async with slots:
            report = await auditor.audit(name)
        document = report.document(reports.report(config.audits, name))
        level = logging.INFO if document["verdict"] == "passed" else logging.WARNING
        log.log(
            level,
            "%s: %s%s",
            name,
            document["verdict"],
            f": {document['problem']}" if document["problem"] else "",
        )
        for end, data in ("html", page(document)), ("json", json.dumps(document, indent=1).encode() + b"\n"):
            target = config.audits / f"{name}.{end}"
            if target.is_dir():
                remove(target)
            write_atomically(target, data)
        return document

    try:
        found = await asyncio.gather(*(one(name) for name in names))
        return [document for document in found if document is not None]
    finally:
        auditor.trusted.remember()
