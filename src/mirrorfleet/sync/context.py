"""What a run is given, and what comes of it."""

from dataclasses import dataclass, field
from typing import Any

from ..common.config import Config
from ..common.progress import Progress
from ..served.state import State
from ..served.tree import Result


@dataclass
class Context:
    config: Config
    state: State
    progress: Progress
    lock: int | None = None
    allow_shrink: bool = False
    full: bool = False


@dataclass
class Outcome:
    good: bool
    summary: dict[str, Any] = field(default_factory=dict)


def summary(result: Result, config: Config, state: State) -> dict[str, Any]:
    late, aside = state.failing_by_reason(config.tries_before_set_aside)
    return {
        "serial": state.get("serial"),
        "changed": result.changed,
        "removed": result.removed,
        "deleted": result.deleted,
        "incomplete": result.incomplete,
        "left_out": state.left_out_by_reason(),
        "late": late,
        "set_aside": aside,
    }
