"""How long `mirrorfleet list` takes for a large fleet, in a process of its own, with its memory.

No tool that we know makes these documents of such a list, so the goals of the design stand where a peer would.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import FULL, ROOT, Row, publish, say

sys.path.insert(0, str(ROOT / "tests"))

from listing_material import record, registry

MIRRORS = 10_000
SECONDS, MEGABYTES = 5.0, 300.0
ROUNDS = 9 if FULL else 3


AUDIT = {
    "tampered_at": None,
    "problem": "",
    "verdict": "passed",
    "hashed": 30,
    "sampled": 200,
    "complete": [0.98, 1],
}
FAILED = [
    {"rule": "vary", "source": "RFC 9110, 12.5.5", "severity": "warning", "summary": "s", "detail": "x"}
] * 5  # fmt: skip


def health(names: list[str], now: int, bad: int) -> dict[str, Any]:
    """Of which every `bad`th fails, so that each run has something to change."""
    mirrors = {
        name: {
            "measured_at": now, "since": now - 900, "serial": 30_000_000 + at,
            "good": 0 if at % 100 == bad else 9, "bad": 9 if at % 100 == bad else 0,
            "problem": "connection over ipv4: no answer in time" if at % 100 == bad else "",
            "last_modified": now - at % 3600, "addresses": [f"198.51.{at // 256}.{at % 256}", f"2001:db8::{at:x}"],
            "certificate_expires": now + 40 * 86400, "families": {"ipv4": "", "ipv6": ""}, "lag": at % 3600,
            "audit": AUDIT | {"passed_at": now - 60, "started": now - 60, "failed": FAILED if at % 10 == 0 else []},
            "day": {"rounds": 1440, "good": 1400 + at % 40, "duration": 0.25, "deviation": 0.125, "delay": 0.5},
            "days": [round(1 - (at + day) % 17 / 100, 3) for day in range(30)],
            "history": {
                "behind": [(at + day) % 7200 for day in range(30)],
                "independent": [round(1 - (at + day) % 7 / 100, 3) for day in range(30)],
            },
        }
        for at, name in enumerate(names)
    }  # fmt: skip
    reference = {"problem": "", "serial": 30_000_000}
    return {"schema": 1, "monitor": "bench", "at": now, "reference": reference, "mirrors": mirrors}


def run(folder: Path) -> tuple[float, float]:
    """Seconds and megabytes of one run."""
    started = time.monotonic()
    command = [sys.executable, "-m", "mirrorfleet.cli", "list", "-c", str(folder / "list.json")]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"mirrorfleet list ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - started, used.ru_maxrss / 1024


def long_listed(path: Path) -> None:
    """All their days count: each mirror was first listed long ago."""
    state = json.loads(path.read_text())
    for one in state["standings"].values():
        one["joined"] = int(time.time()) - 90 * 86400
    path.write_text(json.dumps(state))


def main() -> None:
    names = [f"mirror-{at:05d}" for at in range(MIRRORS)]
    known = registry(*names[:1])
    known["mirrors"] = [record(name) for name in names]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry.json").write_text(json.dumps(known))
        paths = {
            "registry": "registry.json",
            "health": "health.json",
            "documents": "list",
            "state": "state.json",
        }
        paths = {key: str(folder / file) for key, file in paths.items()}
        said = {"health": [paths["health"]], "settings": {"damping_seconds": 0}}
        (folder / "list.json").write_text(json.dumps(paths | said))
        (folder / "health.json").write_text(json.dumps(health(names, int(time.time()), 0)))
        run(folder)
        long_listed(folder / "state.json")
        shutil.rmtree(folder / "list/mirror")
        seen = []  # of which the first makes every mirror's page
        for at in range(ROUNDS + 1):
            (folder / "health.json").write_text(json.dumps(health(names, int(time.time()), at)))
            seen.append(run(folder))
        page = (folder / "list" / "index.html").stat().st_size
    seconds, megabytes = (statistics.median(column) for column in zip(*seen[1:], strict=True))
    version = sys.version.split()[0]
    first = seen[0][0]
    rows = [
        Row("all documents of 10,000 mirrors", seconds, SECONDS, "the design's limit", version, "s", 1),
        Row(
            "their first run, with every mirror's page", first, SECONDS, "the design's limit", version, "s", 1
        ),
        Row("memory for 10,000 mirrors", megabytes, MEGABYTES, "the design's limit", version, "MB", 1),
    ]
    publish("list", rows)
    say(f"index.html of 10,000 mirrors is {page / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
