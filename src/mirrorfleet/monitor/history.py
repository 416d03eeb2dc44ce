"""What Prometheus remembers of each mirror, a value a day: asked now and then, on the loopback address."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..common import http, notes

DAY = 86400
LARGEST_ANSWER = 64 << 20
# Of the prober's own metrics and of the blackbox exporter's. A mirror is as well as its worst address family.
QUERIES = {
    "available": "min by (mirror) (avg_over_time(mirrorfleet_probe_success[{span}s]))",
    "behind": "max by (mirror) (max_over_time(mirrorfleet_probe_lag_seconds[{span}s]))",
    "independent": 'min by (mirror) (avg_over_time(probe_success{{mirror!=""}}[{span}s]))',
}

Days = dict[int, float]  # by days since 1970


class HistoryError(Exception):
    """Prometheus cannot be asked, or does not say what it should."""


@dataclass
class History:
    """By the names of QUERIES and by mirror, the values of the days."""

    available: dict[str, Days] = field(default_factory=dict)
    behind: dict[str, Days] = field(default_factory=dict)
    independent: dict[str, Days] = field(default_factory=dict)

    def row(self, kind: str, mirror: str, days: range) -> list[float | None]:
        known = getattr(self, kind).get(mirror, {})
        return [known.get(day) for day in days]


def ask(url: str, days: int, now: int, timeout: float) -> History:
    """The days that ended, each as a whole, and today so far."""
    today, found = now // DAY, History()
    for kind, query in QUERIES.items():
        rows: dict[str, Days] = {}
        whole = {
            "query": query.format(span=DAY),
            "start": (today - days + 2) * DAY, "end": today * DAY, "step": DAY,
        }  # fmt: skip
        for mirror, at, value in _answer(url, "query_range", whole, timeout):
            rows.setdefault(mirror, {})[at // DAY - 1] = value
        if so_far := now % DAY:
            part = {"query": query.format(span=so_far), "time": now}
            for mirror, _, value in _answer(url, "query", part, timeout):
                rows.setdefault(mirror, {})[today] = value
        setattr(found, kind, rows)
    return found


def _answer(
    url: str, what: str, arguments: dict[str, Any], timeout: float
) -> Iterator[tuple[str, int, float]]:
    """Mirror, time and value of every sample."""
    try:
        # Never through a proxy: this host is asked.
        body = http.fetch(f"{url}/api/v1/{what}", data=arguments, limit=LARGEST_ANSWER, timeout=timeout)
        document = notes.decode(body)
        for series in document["data"]["result"]:
            samples = series["values"] if what == "query_range" else [series["value"]]
            for at, text in samples:
                if abs(value := float(text)) < notes.AGREED:
                    yield str(series["metric"]["mirror"]), int(at), value
    except http.StatusError as error:
        raise HistoryError(f"HTTP {error.status}: {error.body.decode('utf-8', 'replace')}") from error
    except http.TooLongError as error:
        raise HistoryError(f"answers with more than {LARGEST_ANSWER} bytes") from error
    except OSError as error:
        raise HistoryError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise HistoryError(f"{what}: not what its API promises: {error!r}") from error


def share(value: float | None) -> float | None:
    return None if value is None else round(min(max(value, 0.0), 1.0), 4)


def seconds(value: float | None) -> int | None:
    return None if value is None else max(int(value), 0)


def told(history: History, mirror: str, days: range) -> dict[str, list[Any]] | None:
    """As health.json has it; None when nothing is remembered of the mirror."""
    kinds: dict[str, Callable[[float | None], Any]] = {"behind": seconds, "independent": share}
    rows = {kind: [form(one) for one in history.row(kind, mirror, days)] for kind, form in kinds.items()}
    return rows if any(one is not None for row in rows.values() for one in row) else None
