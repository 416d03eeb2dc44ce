"""What an update of the fleet does, and in what order. Documentation of each filter: the YAML file of its name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import outcome, rollout
from plugin_utils.filters import as_filter


class FilterModule:
    """From what hosts, redirectors and monitors say to waves."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "update_plan": as_filter(rollout.update_plan),
            "update_wave": as_filter(rollout.update_wave),
            "update_outcome": as_filter(outcome.update_outcome),
            "update_said": as_filter(outcome.update_said),
            "update_differs": as_filter(rollout.update_differs),
        }
