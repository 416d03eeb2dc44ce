"""What the monitor's metrics, and so its alerts, tell of failures: words that may be a mirror's own, made harmless."""

from dataclasses import dataclass

Failure = tuple[str, str, str, int]  # family, check, problem, when it was last found

MOST = 5  # kinds of failure of a mirror told at a time
VARYING = "something else each time"


@dataclass(frozen=True)
class Proof:
    """A wrong hash that a monitor found, as it is kept and shown: what was asked, what came, what should have come."""

    at: int
    monitor: str
    found: str  # in words, with the path, the hash that came and the one of the trusted index
    family: str = ""
    address: str = ""  # of the mirror that gave it


def printable(words: object) -> str:
    """Words of others, a mirror's answer say, on one bounded line."""
    text = "".join(character if character.isprintable() else " " for character in str(words)[:200])
    return text.strip() or "no reason given"


def kept(former: list[Failure], failures: list[dict[str, str]], now: int) -> list[Failure]:
    """The failures of a row of failed rounds, the latest last.

    Each is a time series. A mirror that puts other words into each answer does not get one for each: beyond `MOST`
    they are one.
    """
    found = {one[:3]: one[3] for one in former}
    for failure in failures:
        about = failure["family"], printable(failure["check"])
        told = (*about, printable(failure["problem"]))
        if told not in found and len(found) >= MOST:
            told = (*about, VARYING)
        found.pop(told, None)
        found[told] = now
    return [(*told, at) for told, at in found.items()]
