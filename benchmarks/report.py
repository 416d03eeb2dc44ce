"""What every benchmark shares: rounds, medians, the table of ratios and build/bench/TOPIC.json."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FULL = os.environ.get("SIZE", "quick") == "full"


@dataclass
class Row:
    """One comparison; `goal` is what `ratio` (ours / peer) has to reach, None where there is none."""

    what: str
    ours: float
    peer: float
    peer_name: str
    peer_version: str
    unit: str
    goal: float | None = None
    better: str = "lower"

    @property
    def ratio(self) -> float:
        return self.ours / self.peer if self.peer else float("inf")

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        reached = self.ratio <= self.goal if self.better == "lower" else self.ratio >= self.goal
        return "reached" if reached else "MISSED"


def say(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def medians(rounds: int, *actions: Callable[[], float]) -> list[float]:
    """Each action's median over the rounds, which take the actions in turn, so that all meet the same weather."""
    taken = [[action() for action in actions] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def publish(topic: str, rows: list[Row]) -> None:
    folder = ROOT / "build/bench"
    folder.mkdir(parents=True, exist_ok=True)
    document = [asdict(row) | {"ratio": row.ratio} for row in rows]
    (folder / f"{topic}.json").write_text(json.dumps(document, indent=1) + "\n")
    wide = max(len(row.what) for row in rows)
    print(f"{'':{wide}}  {'ours':>10}  {'peer':>10}  {'ratio':>8}  {'goal':>8}")
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:.4g}"
        print(
            f"{row.what:{wide}}  {row.ours:>10.4g}  {row.peer:>10.4g}  {row.ratio:>8.4f}  {goal:>8}"
            f"  {row.unit}, beside {row.peer_name} {row.peer_version}  {row.verdict}"
        )
