"""Spread of timers over the hosts of a fleet."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError

DAY = 24 * 60


def systemd_calendar_spread(host: str, minutes: int = 10, purpose: str = "") -> str:
    """OnCalendar= for every so many minutes, at an offset that each host keeps and few hosts share."""
    v.text(host, most=253)
    v.whole(1, DAY)(minutes)
    if (60 % minutes if minutes <= 60 else minutes % 60 or DAY % minutes) != 0:
        raise BadValueError(
            f"{minutes} minutes do not divide an hour or a day evenly",
            "minutes that divide 60, or whole hours that divide 24",
        )
    digest = hashlib.sha256(f"{purpose}\0{host}".encode()).digest()
    offset = int.from_bytes(digest[:8], "big") % (minutes * 60)
    hour, minute, second = offset // 3600, offset // 60 % 60, offset % 60
    if minutes < 60:
        return f"*-*-* *:{minute:02d}/{minutes}:{second:02d}"
    every = "" if minutes == DAY else f"/{minutes // 60}"
    return f"*-*-* {hour:02d}{every}:{minute:02d}:{second:02d}"


class FilterModule:
    """From a host's name to its own time."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"systemd_calendar_spread": as_filter(systemd_calendar_spread)}
