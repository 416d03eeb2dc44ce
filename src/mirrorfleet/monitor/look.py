"""A single look at some mirrors, for whoever has to know now: by the rules and in the words of service and audit.

It keeps nothing and takes no lock: it can be had beside the service, and of a mirror that the registry lacks.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from ..common.config import ConfigError
from ..fleet import registry
from ..fleet.health import described
from .client import CheckError
from .conformance import Conformance
from .reach import Reach
from .reference import Reference, consult
from .report import Report
from .round import Round
from .settings import MonitorConfig, load_monitor
from .track import Found, least


def look(path: Path, names: list[str], records: Path | None = None) -> tuple[bool, dict[str, Any]]:
    """What each of these mirrors is found to do; good when all of them are well and the trusted index answers.

    `records` is a file, or - for stdin, with a list of records as the registry has them: they count before those of
    the registry. Without names it is their mirrors that are looked at. ConfigError when a mirror has no valid record.
    """
    config = load_monitor(path)
    known = registry.load(config.registry)
    if records is not None:
        given = _given(records, known.fleet)
        names = names or sorted(given.mirrors)
        wrong = {name: why for name, why in known.wrong.items() if name not in given.mirrors}
        known = registry.Registry(known.fleet, known.mirrors | given.mirrors, wrong | given.wrong)
    for name in names:
        if name not in known.mirrors or name in known.wrong:
            why = known.wrong.get(name, "is no mirror of the registry")
            raise ConfigError(f"{config.registry}: {name!r}: {why}")
    chosen = [known.mirrors[name] for name in names]
    return asyncio.run(Look(config, known.fleet["staleness_limit"]).at(chosen))


def _given(records: Path, fleet: dict[str, Any]) -> registry.Registry:
    source = "the records on stdin" if str(records) == "-" else str(records)
    try:
        found = json.loads(sys.stdin.buffer.read() if str(records) == "-" else records.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from error
    return registry.parse({"schema": 1, "fleet": fleet, "origins": [], "mirrors": found}, source)


class Look:
    def __init__(self, config: MonitorConfig, staleness_limit: int) -> None:
        self.config, self.limit = config, staleness_limit
        self.reach, self.reference = Reach(config), Reference()

    async def at(self, records: list[dict[str, Any]]) -> tuple[bool, dict[str, Any]]:
        await consult(self.reach, self.reference, self.config.reference.projects)
        if self.reference.problem:  # of mirrors nothing can be said
            return False, {"monitor": self.config.name, "reference": self.reference.problem, "mirrors": {}}
        slots = asyncio.Semaphore(self.config.workers)

        async def one(record: dict[str, Any]) -> dict[str, Any]:
            async with slots:
                return _told(
                    await asyncio.gather(*(self._in(one, record) for one in record["address_families"]))
                )

        found = await asyncio.gather(*(one(record) for record in records))
        mirrors = {record["name"]: told for record, told in zip(records, found, strict=True)}
        good = all(told["good"] for told in mirrors.values())
        return good, {"monitor": self.config.name, "reference": "", "mirrors": mirrors}

    async def _in(self, family: str, record: dict[str, Any]) -> tuple[Found, list[dict[str, str]]]:
        """A round, and where it is good what an audit asks of a mirror that keeps to the standards."""
        found = await Round(self.config, self.reach, self.reference, record, family).run(self.limit)
        if found.failure:
            return found, [found.failure]
        report, problem = Report(record["name"], record["url"], int(time.time())), ""
        project = self.config.reference.projects[0]
        try:
            async with (
                asyncio.timeout(self.config.budget),
                self.reach.line(await self.reach.mirror(record, family)) as line,
            ):
                await Conformance(line, report, family, record, project).run()
        except TimeoutError:
            problem = "took longer than the time for a round"
        except CheckError as error:
            problem = str(error)
        failed = [(one["rule"], one["detail"]) for one in report.failed]
        failed += [("connection", problem)] if problem else []
        return found, [{"family": family, "check": check, "problem": told} for check, told in failed]


def _told(families: list[tuple[Found, list[dict[str, str]]]]) -> dict[str, Any]:
    failures = [failure for _, failed in families for failure in failed]
    return {
        "good": not failures,
        "problem": described(failures) if failures else "",
        "failures": failures,
        **{
            key: least(getattr(found, key) for found, _ in families)
            for key in ("serial", "last_modified", "certificate_expires")
        },
    }
