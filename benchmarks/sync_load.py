"""On the cache's host of `make bench-sync`: clients by the dozen that want one file which no cache has yet.

Run as: sync_load.py cache|proxpi|devpi-server CLIENTS:PROJECT:SIZE...; prints as JSON the slowest first byte for each
project in seconds, cold and (of our cache only) once more, and the server's version. All servers are asked by plain HTTP.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from peer_servers import CA, devpi, fetch, linked_wheel, proxpi, version

UPSTREAM, OURS = "https://tier1.fleet.test/simple/", "http://cache.fleet.test/simple"
PATIENCE = 300  # seconds for all clients to have the file


@contextmanager
def serving(name: str) -> Iterator[tuple[str, str]]:
    """A cache's index and its version. Peers run as they come."""
    if name == "cache":
        said = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True).stderr
        yield OURS, said.partition("/")[2].split()[0]
    elif name == "proxpi":
        with proxpi(UPSTREAM) as (base, _):
            yield base, version(name)
    else:
        with devpi(UPSTREAM) as (base, _):
            yield base, version(name)


def slowest_first_byte(url: str, clients: int, size: int) -> float:
    """All clients at once, a connection each, and all get the whole file."""
    said = subprocess.run(
        ["curl", "--parallel", "--parallel-immediate", "--parallel-max", str(clients), "--http1.1", "--location",
         "--cacert", CA, "--no-progress-meter", "--max-time", str(PATIENCE), "--config", "-",
         "--write-out", "%{http_code} %{size_download} %{time_starttransfer}\n"],
        input=f'url = "{url}"\noutput = "/dev/null"\n' * clients, capture_output=True, text=True, check=False,
    )  # fmt: skip
    answers = [line.split() for line in said.stdout.splitlines()]
    if len(answers) != clients or any(answer[:2] != ["200", str(size)] for answer in answers):
        sys.exit(
            f"{url} was not served to all {clients} clients with {size} bytes:\n{said.stdout}{said.stderr}"
        )
    return max(float(answer[2]) for answer in answers)


def main() -> None:
    with serving(sys.argv[1]) as (base, its_version):
        taken, again = {}, {}
        for wanted in sys.argv[2:]:
            clients, project, size = wanted.split(":")
            wheel = linked_wheel(f"{base}/{project}/")
            taken[project] = slowest_first_byte(wheel, int(clients), int(size))
            if len(fetch(wheel)[1]) != int(size):
                sys.exit(f"{wheel} is served otherwise when it is cached")
            if base == OURS:
                again[project] = slowest_first_byte(wheel, int(clients), int(size))
    print(json.dumps({"version": its_version, "first byte": taken, "again": again}))


if __name__ == "__main__":
    main()
