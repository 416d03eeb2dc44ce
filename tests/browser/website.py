"""The published pages as the redirector's nginx sends them, and what a browser sees of them."""

from __future__ import annotations

import http.server
import multiprocessing
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page
from site_material import Site

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (ROOT / "roles/document_server/templates/serve.conf.j2").read_text()


def headers() -> dict[str, str]:
    """The redirector's own, so that the two cannot differ."""
    lines = re.findall(r"^\s*add_header (.*) always;$", TEMPLATE, re.MULTILINE)
    return dict(shlex.split(line) for line in lines)


def types() -> dict[str, str]:
    block = re.search(r"types \{(.*?)\}", TEMPLATE, re.DOTALL)
    assert block is not None
    return {f".{suffix}": f"{kind}; charset=utf-8" for kind, suffix in re.findall(r"(\S+) (\S+);", block[1])}


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = types() | {"": "application/octet-stream"}

    def end_headers(self) -> None:
        for name, value in headers().items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def apart(site: Site, *options: str) -> int:
    """The exit code of a run in a process of its own: this one may drive a browser, and has an event loop that runs."""
    run = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(site.publish(*options)))
    run.start()
    run.join()
    assert run.exitcode is not None
    return run.exitcode


def publish(site: Site) -> Site:
    """Once well, and once as it is: a mirror that was never listed has no history."""
    healthy = {name: one | {"good": 9, "bad": 0, "problem": "", "tampered_at": None} for name, one in
               site.health["mirrors"].items()}  # fmt: skip
    ill, site.health["mirrors"] = site.health["mirrors"], healthy
    site.config["settings"]["audit_required"] = False
    assert apart(site) == 0
    site.listed_for(days=90)
    site.health["mirrors"] = ill
    assert apart(site, "--force") == 0
    return site


@dataclass
class Published:
    site: Site
    url: str


@dataclass
class Visit:
    """A page with all that it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on(
            "dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page that was left before it had its icon
            self.failed.append(f"{request.failure} {request.url}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")

    def expect_quiet(self, url: str) -> None:
        """No word on the console, nothing asked of anyone else, nothing that could not be had."""
        assert self.said == []
        assert self.failed == []
        assert {f"{urlsplit(one).scheme}://{urlsplit(one).netloc}" for one in self.asked} == {url}
