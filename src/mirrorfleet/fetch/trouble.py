"""Projects that fail are tried again at each run while tries are left, then set aside and tried ever more rarely."""

import logging
import time
from collections.abc import Mapping

from ..common.clock import is_due
from ..common.reasons import Reason, by_kind
from ..served.state import State, Trouble
from .projects import LONGEST, later

log = logging.getLogger(__name__)

# Above both, failures are upstream's as a whole and no project's own.
_FEW, _FEW_SHARE = 10, 0.05


def many(projects: int) -> float:
    """How many of so many may fail in one run as each its own fault."""
    return max(_FEW, _FEW_SHARE * projects)


def retry_after(tries: int, allowed: int) -> float:
    """When to try again, in Unix seconds: at once while tries are left, then ever more rarely, down to once a day."""
    return 0.0 if tries < allowed else time.time() + later(tries - allowed)


def is_to_be_tried(trouble: Trouble) -> bool:
    return is_due(trouble.retry_after, time.time(), LONGEST)


def leave_uncounted(state: State, step: str, failing: Mapping[str, Reason]) -> None:
    """Note by reason what failed in a step of a run and is counted against no project: it is late all the same."""
    known = state.troubles()
    told = by_kind(reason for name, reason in failing.items() if name not in known)
    state.put("uncounted", state.get("uncounted", {}) | {step: told})


def count(state: State, name: str, reason: Reason, allowed: int) -> None:
    """Note that a project failed once more, and say so."""
    former = state.trouble(name)
    tries = former.tries + 1 if former else 1
    with state.transaction():
        state.record_trouble(name, reason, retry_after(tries, allowed))
    if tries >= allowed:
        log.error("project %s is set aside after %d tries: %s", name, tries, reason)
    else:
        log.warning("project %s failed, try %d of %d: %s", name, tries, allowed, reason)
