"""What was noted by a clock that may have jumped since, ahead or back: no such time may stop anything."""


def is_due(at: float, now: float, longest: float) -> bool:
    """Whether a time has come that was noted as at most `longest` seconds ahead; all in Unix seconds.

    One that is further ahead was noted by a clock that was wrong.
    """
    return not now < at <= now + longest


def elapsed(since: float, now: float) -> float | None:
    """Seconds since a time that was noted; None where the clock was ahead then, so that nobody knows."""
    return now - since if since <= now else None


def by_now(at: int | None, now: int) -> int | None:
    """A time that was noted as one that had come: now, where the clock was ahead then."""
    return None if at is None else min(at, now)
