"""Debian's Chromium, and the published pages as the redirector's nginx sends them."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browser.website import Handler, Published, Visit, publish
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from site_material import fleet

# What Chromium would ask its maker is not asked here.
FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


# Of the module and not of the session: Playwright's event loop runs in this thread for as long as it is
# there, and a test that starts a loop of its own in the same process would fail.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            handler = functools.partial(Handler, directory=str(folder))
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Path], str]
) -> Callable[[int], Published]:
    """A fleet of a size, published once."""

    @functools.cache
    def of(size: int) -> Published:
        site = publish(fleet(tmp_path_factory.mktemp("site"), size))
        return Published(site, serve(site.documents))

    return of


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=Example-Fleet-CA -keyout"
    subprocess.run([*command.split(), os.devnull, "-out", file], check=True, capture_output=True)
    return file


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """A look at a URL, with the options of a browser's context."""
    contexts: list[BrowserContext] = []

    def look(url: str, **options: Any) -> Visit:
        contexts.append(browser.new_context(**options))
        seen = Visit(contexts[-1].new_page())
        seen.page.goto(url)
        return seen

    yield look
    for context in contexts:
        context.close()
