"""The fleet in one table, and what became of the list. Documentation of each filter: the YAML file of its name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import status
from plugin_utils.filters import as_filter


class FilterModule:
    """From what hosts, redirectors and monitors say to what a coordinator reads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            # A document of an earlier run is longer than what is typed.
            "fleet_status": as_filter(status.fleet_status, as_given=("former",)),
            "list_changes": as_filter(status.list_changes),
        }
