"""make picture: docs/status-page.png, the status page of a made-up fleet as Chromium shows it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import tempfile
import threading
import unicodedata
from pathlib import Path

from browser.conftest import FLAGS
from browser.website import ROOT, Handler, publish
from playwright.sync_api import sync_playwright
from site_material import Site, fleet

TARGET = ROOT / "docs/status-page.png"
MIRRORS = 15
WINDOW = {"width": 1440, "height": 1060}


def name_by_city(site: Site) -> Site:
    """As volunteers call their mirrors."""
    measured = site.health["mirrors"]
    site.health["mirrors"] = {}
    for record in site.registry["mirrors"]:
        plain = unicodedata.normalize("NFKD", record["location"]["city"]).encode("ascii", "ignore").decode()
        name = f"{plain.lower().replace(' ', '-')}.example.org"
        site.health["mirrors"][name] = measured[record["name"]]
        record |= {"name": name, "url": f"https://{name}", "urls": [f"https://{name}"]}
    return site


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        with contextlib.redirect_stdout(io.StringIO()):
            site = publish(name_by_city(fleet(Path(folder), MIRRORS)))
        handler = functools.partial(Handler, directory=str(site.documents))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
            page = chromium.new_page(viewport=WINDOW, color_scheme="light")
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.screenshot(path=TARGET)
            chromium.close()
            server.shutdown()
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
