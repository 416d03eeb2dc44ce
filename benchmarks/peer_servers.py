"""On a benchmark's host: the index servers that ours is set beside, from when they answer to their end."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PEERS, DATA = Path("/opt/peers"), Path("/srv/peers")
CA = "/etc/mirrorfleet/tls/ca.pem"
JSON = "application/vnd.pypi.simple.v1+json"
# As pip sends it, for it is pip that comes.
ACCEPT = f"{JSON}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
STARTUP_SECONDS = 60


def fetch(url: str, check_hostname: bool = True, **headers: str) -> tuple[dict[str, str], bytes]:
    context = ssl.create_default_context(cafile=CA)
    context.check_hostname = check_hostname
    request = urllib.request.Request(url, headers={"Accept": ACCEPT} | headers)
    with urllib.request.urlopen(request, timeout=STARTUP_SECONDS, context=context) as response:
        return dict(response.headers), response.read()


def version(name: str) -> str:
    return next(iter(importlib.metadata.distributions(name=name, path=[str(PEERS)]))).version


@contextmanager
def running(name: str, port: int, *command: str, **environment: str) -> Iterator[int]:
    """A peer's process from when it answers to its end."""
    DATA.mkdir(parents=True, exist_ok=True)
    log = DATA / f"{name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"PYTHONPATH": str(PEERS), "HOME": str(DATA), "SSL_CERT_FILE": CA}
            | {"REQUESTS_CA_BUNDLE": CA} | environment,
            stdout=stream, stderr=stream,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + STARTUP_SECONDS
            while True:
                try:
                    fetch(f"http://127.0.0.1:{port}/")
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        sys.exit(f"{name} does not start:\n{log.read_text()[-3000:]}")
                    time.sleep(0.2)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def proxpi(index: str, **environment: str) -> Iterator[tuple[str, int]]:
    """A cache of an index: its own index and its process."""
    with running(
        "proxpi", 8002, "-m", "gunicorn", "--bind", "127.0.0.1:8002", "--threads", "2", "proxpi.server:app",
        PROXPI_INDEX_URL=index, PROXPI_CACHE_DIR=str(DATA / "proxpi"), **environment,
    ) as pid:  # fmt: skip
        yield "http://127.0.0.1:8002/index", pid


@contextmanager
def devpi(index: str) -> Iterator[tuple[str, int]]:
    """A cache of an index: its own index and its process."""
    data = DATA / "devpi"
    if not data.exists():
        start = "import sys; from devpi_server.init import init; sys.exit(init())"
        subprocess.run(
            [sys.executable, "-c", start, "--serverdir", str(data), "--no-root-pypi"],
            env=os.environ | {"PYTHONPATH": str(PEERS)}, check=True, capture_output=True,
        )  # fmt: skip
    start = "import sys; from devpi_server.main import main; sys.exit(main())"
    with running(
        "devpi-server", 8003, "-c", start, "--serverdir", str(data), "--host", "127.0.0.1", "--port", "8003"
    ) as pid:
        try:
            mirror_index(8003, index)
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it is there from an earlier run
                raise
        yield "http://127.0.0.1:8003/root/mirror/+simple", pid


def mirror_index(port: int, index: str) -> None:
    """Makes devpi a mirror of ours."""

    def call(
        method: str, path: str, document: dict[str, object], **headers: str
    ) -> dict[str, dict[str, str]]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/{path}",
            json.dumps(document).encode(),
            {"Content-Type": "application/json", "Accept": "application/json"} | headers,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=STARTUP_SECONDS) as response:
            answer: dict[str, dict[str, str]] = json.loads(response.read())
            return answer

    token = call("POST", "+login", {"user": "root", "password": ""})["result"]["password"]
    secret = base64.b64encode(f"root:{token}".encode()).decode()
    call("PUT", "root/mirror", {"type": "mirror", "mirror_url": index}, **{"X-Devpi-Auth": secret})


def linked_wheel(page: str) -> str:
    """The URL of the first wheel that a project's page links."""
    _, body = fetch(page, Accept="text/html")
    links = [part.partition(b'"')[0] for part in body.split(b'href="')[1:]]
    wheels = [link.decode() for link in links if link.partition(b"#")[0].endswith(b".whl")]
    if not wheels:
        sys.exit(f"{page} links no wheel: {body[:500]!r}")
    return urllib.parse.urljoin(page, wheels[0]).partition("#")[0]
