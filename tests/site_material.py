"""What was measured of a fleet, and the verb list that publishes it, for tests of the documents."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from listing_material import registry

from mirrorfleet import cli


def health(names: list[str], now: int, **changes: Any) -> dict[str, Any]:
    """A health document of mirrors that are all well; what is changed is changed in the first."""
    good = {
        "measured_at": now, "good": 9, "bad": 0, "problem": "", "serial": 12, "last_modified": now - 60,
        "addresses": ["192.0.2.7", "2001:db8::7"], "audit": {"passed_at": now - 9, "tampered_at": None, "problem": ""},
        "day": {"rounds": 100, "good": 50, "duration": 0.5, "deviation": 0.25, "delay": 1.25},
        "days": [None, 1.0, 0.5, None, 1.0],
    }  # fmt: skip
    mirrors = {name: good | (changes if name == names[0] else {}) for name in names}
    reference = {"problem": "", "serial": 12}
    return {"schema": 1, "monitor": "m", "at": now, "reference": reference, "mirrors": mirrors}


class Site:
    """A redirector's files, and the verb that makes its documents."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names, self.now = folder, list(names or ("one", "two")), int(time.time())
        self.documents = folder / "list"
        (folder / "holds").mkdir()
        self.registry = registry(*self.names)
        self.health = health(self.names, self.now)
        self.config: dict[str, Any] = {
            "registry": str(folder / "registry.json"),
            "health": str(folder / "health.json"),
            "holds": str(folder / "holds"),
            "documents": str(self.documents),
            "state": str(folder / "state.json"),
            "url": "https://fleet.example.org",
            "settings": {"damping_seconds": 0},
        }

    def publish(self, *options: str) -> int:
        for name in ("registry", "health", "config"):
            (self.folder / f"{name}.json").write_text(json.dumps(getattr(self, name)))
        return cli.main(["list", "-c", str(self.folder / "config.json"), *options])

    def read(self, name: str) -> str:
        return (self.documents / name).read_text("utf-8")

    @property
    def listed(self) -> dict[str, bool]:
        return {one["name"]: one["listed"] for one in json.loads(self.read("mirrors.json"))["mirrors"]}
