"""On the cache's host of `make bench-sync`: clients by the dozen that want one file which no cache has yet.

Run as: sync_load.py cache|proxpi|devpi-server CLIENTS:PROJECT:SIZE... All servers are asked by plain HTTP. Prints
as JSON the server's version and, for each project: the slowest first byte in seconds, the same once more (of our
cache only), and how many clients did not get the whole file (of peers; of our cache that ends the benchmark).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from peer_servers import CA, devpi, linked_wheel, proxpi, version

UPSTREAM, OURS_SITE = "https://tier1.fleet.test/simple/", "http://cache.fleet.test/"
PATIENCE = 300  # seconds for all clients to have the file


@contextmanager
def serving(name: str) -> Iterator[tuple[str, str]]:
    """A cache's index and its version. Peers run as they come."""
    if name == "cache":
        said = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True).stderr
        yield f"{OURS_SITE}simple", said.partition("/")[2].split()[0]
    elif name == "proxpi":
        with proxpi(UPSTREAM) as (base, _):
            yield base, version(name)
    else:
        with devpi(UPSTREAM) as (base, _):
            yield base, version(name)


def ask(url: str, clients: int, size: int) -> tuple[float, int]:
    """All clients at once, a connection each: the slowest first byte, and how many did not get the whole file."""
    said = subprocess.run(
        ["curl", "--parallel", "--parallel-immediate", "--parallel-max", str(clients), "--http1.1", "--location",
         "--cacert", CA, "--no-progress-meter", "--max-time", str(PATIENCE), "--config", "-",
         "--write-out", "%{http_code} %{size_download} %{time_starttransfer}\n"],
        input=f'url = "{url}"\noutput = "/dev/null"\n' * clients, capture_output=True, text=True, check=False,
    )  # fmt: skip
    answers = [line.split() for line in said.stdout.splitlines()]
    served = [float(answer[2]) for answer in answers if answer[:2] == ["200", str(size)]]
    unserved = clients - len(served)
    if unserved and (url.startswith(OURS_SITE) or not served):
        sys.exit(f"{url} was not served to {unserved} of {clients} clients:\n{said.stdout}{said.stderr}")
    return max(served), unserved


def main() -> None:
    name = sys.argv[1]
    first, again, unserved = {}, {}, {}
    with serving(name) as (base, its_version):
        for wanted in sys.argv[2:]:
            clients, project, size = wanted.split(":")
            wheel = linked_wheel(f"{base}/{project}/")
            first[project], unserved[project] = ask(wheel, int(clients), int(size))
            if name == "cache":
                again[project], _ = ask(wheel, int(clients), int(size))
    print(json.dumps({"version": its_version, "first byte": first, "again": again, "unserved": unserved}))


if __name__ == "__main__":
    main()
