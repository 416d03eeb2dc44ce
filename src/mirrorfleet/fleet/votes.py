"""What every monitor says, and who of them has a vote (standing.py)."""

import asyncio
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common import notes
from ..common.schema import InvalidDocumentError
from .documents import Heard
from .evidence import printable
from .health import Findings, both, read
from .standing import FAMILIES, Monitor

log = logging.getLogger(__name__)

LARGEST_HEALTH = 256 << 20
HEALTH_SECONDS = 30.0  # that a monitor may take to tell what it found


@dataclass
class Votes:
    """What every monitor says, those whose word is not taken included."""

    findings: list[Findings]
    told: list[Heard]
    away: set[str]  # names of those that could not be read

    @property
    def monitors(self) -> list[Monitor]:
        return [one.monitor for one in self.findings if one.monitor]

    def add(self, answer: bytes | BaseException) -> str:
        """The name of the monitor that said so; InvalidDocumentError when it is none, or not one by itself."""
        if isinstance(answer, BaseException):
            raise answer
        found = read(notes.decode(answer))
        name = found.monitor.name if found.monitor else ""
        if any(name == one.name for one in self.told):
            raise InvalidDocumentError(
                f"says that it is {name}, as another monitor does: it has no vote of its own"
            )
        self.findings.append(found)
        self.told.append(Heard(name, True))
        return name

    def count(self, unheard: Mapping[str, Mapping[str, str]]) -> None:
        """Who has a vote is known when all that was found is seen together."""
        for at, one in enumerate(self.told):
            why = unheard.get(one.name)
            if one.heard and why:
                words = "; ".join(dict.fromkeys(why.values()))
                self.told[at] = Heard(one.name, why.keys() < FAMILIES.keys(), words)

    def shown(self) -> Findings:
        """Whose figures the documents show: the first that has a vote, and others' for what it does not know."""
        heard = {one.name for one in self.told if one.heard}
        order = sorted(self.findings, key=lambda one: one.monitor is None or one.monitor.name not in heard)
        found = Findings()
        for one in order:
            found = both(found, one)
        return found


def votes(sources: Sequence[str], ca_file: Path | None, names: dict[str, str]) -> Votes:
    """What the monitors found. `names` are those that they gave last, by source, and become those of now.

    That one cannot be read is no reason not to publish what the others say, nor that none can what a person decided.
    """
    found = Votes([], [], set())
    for source, answer in zip(sources, asyncio.run(_read(sources, ca_file)), strict=True):
        name = names.get(source, "")
        try:
            name = found.add(answer)
        except (OSError, ValueError, RecursionError) as error:
            log.error("%s: %s", source, printable(error))
            found.away.add(name)
            found.told.append(Heard(name or printable(source), False, printable(error)))
        names[source] = name
    for source in names.keys() - set(sources):
        del names[source]
    return found


async def _read(sources: Sequence[str], ca_file: Path | None) -> Sequence[bytes | BaseException]:
    """All at the same time: one that is slow or gone takes nobody else's."""
    context = ssl.create_default_context(cafile=ca_file)

    async def one(source: str) -> bytes:
        if not source.startswith("https://"):
            return Path(source).read_bytes()
        from ..common import http  # noqa: PLC0415 - a list with its monitor on the same host asks nobody

        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                return await http.answer(
                    source, limit=LARGEST_HEALTH, timeout=HEALTH_SECONDS, context=context, proxies=True
                )
        except http.TooLongError as error:
            raise InvalidDocumentError(f"is {error}") from error
        except TimeoutError:
            raise OSError(f"gave no whole answer within {HEALTH_SECONDS:g} seconds") from None

    return await asyncio.gather(*(one(source) for source in sources), return_exceptions=True)
