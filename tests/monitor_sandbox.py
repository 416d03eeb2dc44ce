"""A trusted index, mirrors and a monitor's configuration, with real HTTPS servers on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from listing_material import record, registry
from mirror_material import Mirror

from mirrorfleet import cli


class Sandbox:
    """A reference, mirrors on both loopback addresses, a monitor's configuration."""

    def __init__(self, folder: Path, serve: Any, authority: Any, *names: str) -> None:
        self.folder, self.serve, self.authority = folder, serve, authority
        self.reference = Mirror()
        port = serve(self.reference, authority.issue("index.example.test"))
        self.mirrors: dict[str, Mirror] = {}
        self.registry = registry("none")
        self.registry["mirrors"] = []
        self.config: dict[str, Any] = {
            "name": "monitor",
            "registry": str(folder / "registry.json"),
            "state": str(folder / "state"),
            "health": str(folder / "health.json"),
            "ca_file": str(authority.pem),
            "reference": {
                "url": f"https://index.example.test:{port}",
                "projects": ["six", "attrs"],
                "seconds": 1,
            },
            "connect_to": {"reference": ["127.0.0.1"]},
            "timeout": 1.5,
            "budget": 3,
            "write_seconds": 0.05,
        }
        for name in names:
            self.add(name)

    def add(
        self,
        name: str,
        certificate: Path | None = None,
        ipv6: bool = True,
        mirror: Mirror | None = None,
        **changes: Any,
    ) -> Mirror:
        mirror = self.mirrors[name] = mirror or Mirror()
        host = f"{name}.example.test"
        certificate = certificate or self.authority.issue(host)
        port = self.serve(mirror, certificate)
        if ipv6:
            self.serve(mirror, certificate, host="::1", port=port)
        url = f"https://{host}:{port}"
        self.registry["mirrors"].append(record(name, url=url, urls=[url], **changes))
        self.config["connect_to"][name] = ["127.0.0.1", "::1"]
        return mirror

    def write(self) -> None:
        (self.folder / "registry.json").write_text(json.dumps(self.registry))
        (self.folder / "monitor.json").write_text(json.dumps(self.config))

    def probe(self) -> int:
        self.write()
        return cli.main(["probe", "--once", "-c", str(self.folder / "monitor.json")])

    @property
    def health(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "health.json").read_text())
        return document

    def one(self, name: str = "one") -> dict[str, Any]:
        found: dict[str, Any] = self.health["mirrors"][name]
        return found

    def audit(self, *options: str) -> int:
        self.write()
        return cli.main(["audit", "-c", str(self.folder / "monitor.json"), *options])

    def report(self, name: str = "one") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state" / "audits" / f"{name}.json").read_text())
        return found
