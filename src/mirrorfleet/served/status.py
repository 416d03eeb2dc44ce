"""The public status documents: last-modified (PEP 381) and mirror.json."""

import calendar
import json
import platform
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..common.config import Config
from ..common.files import write_atomically
from ..common.log import without_credentials
from .state import State


def status_document(config: Config, state: State, serial: int) -> dict[str, Any]:
    projects, files, size = state.totals()
    troubles = state.troubles().values()
    late, aside = state.failing_by_reason(config.tries_before_set_aside)
    return {
        "schema": 1,
        "name": config.name,
        "url": config.url,
        "mode": config.mode,
        "upstream": without_credentials(config.upstream or config.index_url or "") or None,
        "serial": serial,
        "projects": projects,
        "files": files,
        "bytes": size,
        "last_success": state.get("last_success"),
        "refused": state.get("refused"),  # by what guard the last run was stopped
        "compared_by_page": state.get("compared_by_page", 0),
        "left_out": state.left_out_by_reason(),
        "late": late,
        "set_aside_by_reason": aside,
        "set_aside": sorted(t.name for t in troubles if t.tries >= config.tries_before_set_aside),
        "versions": {
            "mirrorfleet": __version__,
            "python": platform.python_version(),
            **state.get("versions", {}),
        },
    }


LAST_MODIFIED, MIRROR_JSON = "last-modified", "mirror.json"
_STAMP = "%Y%m%dT%H:%M:%S"  # PEP 381


def last_modified(tree: Path) -> float | None:
    """When whose tree this is last had everything, in Unix seconds; None where it does not say."""
    try:
        return float(
            calendar.timegm(time.strptime((tree / LAST_MODIFIED).read_text("ascii").strip(), _STAMP))
        )
    except (OSError, ValueError):
        return None


def write_status(config: Config, state: State, serial: int, fetched_at: float | None) -> None:
    """Only a run that reached upstream, begun at `fetched_at`, moves last-modified."""
    served = config.paths.served
    served.mkdir(parents=True, exist_ok=True)
    state.put("serial", serial)
    if fetched_at is not None:
        state.put("last_success_at", fetched_at)
        state.put("last_success", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fetched_at)))
        stamp = time.strftime(f"{_STAMP}\n", time.gmtime(fetched_at))
        write_atomically(served / LAST_MODIFIED, stamp.encode())
    document = status_document(config, state, serial)
    write_atomically(served / MIRROR_JSON, json.dumps(document, indent=2).encode() + b"\n")
