"""The part of make bench-sync that needs hosts: what clients cost a mirror, and what a cache costs its upstream."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from report import FULL, ROOT, Row, say
from sandbox import Sandbox

ROUNDS = 3 if FULL else 1
CLIENTS = (20, 100)
SLICE = 1 << 20  # of the cache, roles/web_server/templates/upstream.conf.j2
GOAL_SECONDS = 1.0
PROJECTS = 30
CA = "/etc/mirrorfleet/tls/ca.pem"
LOG, BARE_LOG = "/var/log/nginx/access.log", "/var/log/nginx/bare-access.log"
# Index, host and log of each server.
SERVERS = {
    "tier-1": ("https://tier1.fleet.test/simple/", "tier1", LOG),
    "cache": ("https://cache.fleet.test/simple/", "cache", LOG),
    "bare": ("https://tier1.fleet.test:8443/simple/", "tier1", BARE_LOG),
}
RESOLVERS = {
    "pip": "PYTHONPATH=/opt/peers python3 -m pip --isolated install --dry-run --ignore-installed --no-cache-dir"
    f" --break-system-packages --disable-pip-version-check --cert {CA} --index-url INDEX tree-0",
    "uv": f"echo tree-0 | SSL_CERT_FILE={CA} uv pip compile --no-config --no-cache --quiet --default-index INDEX -",
}


def cold(clients: int, number: int) -> str:
    return f"cold-{clients}-{number}"


def make_trees(sandbox: Sandbox) -> None:
    say("the trees, ours and bandersnatch's")
    here = ROOT / "molecule"
    paths = [ROOT / "src", here / "web_server", ROOT / "tests/faults"]
    program, folder = str(here / "bench_sync/bench_tree.py"), str(sandbox.folder / "site")
    subprocess.run(
        [sys.executable, program, folder]
        + [cold(clients, number) for clients in CLIENTS for number in range(ROUNDS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def logged(sandbox: Sandbox, host: str, log: str, action: Callable[[], str]) -> tuple[str, dict[str, int]]:
    """What an action says, and how many bytes the server's log has for it by path."""
    before = int(sandbox.ssh("the log", host, f"sudo stat -c %s {log}"))
    said = action()
    time.sleep(3)  # every worker writes its part of the log once a second
    weights: dict[str, int] = {}
    for line in sandbox.ssh("the log", host, f"sudo tail -c +{before + 1} {log}").splitlines():
        entry = json.loads(line)
        weights[entry["uri"]] = weights.get(entry["uri"], 0) + entry["bytes"]
    return said, weights


def resolving(sandbox: Sandbox) -> list[Row]:
    """What the 30 projects weigh for pip and uv that know nothing yet, from each mode and from a bandersnatch tree."""
    nginx = sandbox.ssh("nginx", "tier1", "/usr/sbin/nginx -v 2>&1").partition("/")[2].split()[0]
    rows = []
    for client, command in RESOLVERS.items():
        say(f"{client} resolves {PROJECTS} projects")
        weights, answers = {}, {}
        for name, (index, host, log) in SERVERS.items():
            asked = command.replace("INDEX", index)
            said, seen = logged(sandbox, host, log, partial(sandbox.ssh, client, "cache", asked))
            answers[name] = set(re.findall(r"\btree-\d+(?:==|-)\d+\.\d+", said))
            weights[name] = sum(seen.values()) / 1000
        if len(answers["bare"]) != PROJECTS or any(found != answers["bare"] for found in answers.values()):
            sys.exit(f"{client} did not find the same {PROJECTS} releases everywhere: {answers}")
        rows += [
            Row(f"{client} resolves {PROJECTS} projects, {name}", weights[name], weights["bare"],
                "a bandersnatch tree, bare nginx", nginx, "kB")
            for name in ("tier-1", "cache")
        ]  # fmt: skip
    return rows


def wheel_name(project: str) -> str:
    return f"/{project.replace('-', '_')}-1.0-py3-none-any.whl"


def size(sandbox: Sandbox, project: str) -> int:
    packages = sandbox.folder / "site/tier1/served/packages"
    return next(packages.glob(f"*/*/*{wheel_name(project)}")).stat().st_size


def cold_file(sandbox: Sandbox, server: str) -> tuple[str, dict[int, list[float]]]:
    """A cache's version; by number of clients: MB from upstream for a file, the slowest first byte cold and once
    more, and how many did not get a file.
    """
    say(f"cold files through {server}")
    projects = {clients: [cold(clients, number) for number in range(ROUNDS)] for clients in CLIENTS}
    sizes = {project: size(sandbox, project) for names in projects.values() for project in names}
    wanted = [f"{clients}:{project}:{sizes[project]}" for clients in CLIENTS for project in projects[clients]]
    command = f"sudo python3 /opt/sync_load.py {server} {' '.join(wanted)}"
    said, weights = logged(sandbox, "tier1", LOG, partial(sandbox.ssh, server, "cache", command))
    answer = json.loads(said)
    fetched = {
        project: sum(weight for uri, weight in weights.items() if uri.endswith(wheel_name(project)))
        for project in sizes
    }
    for project, weight in fetched.items():
        if weight < sizes[project]:
            sys.exit(f"bench-sync: {server} had {project} already; remove the hosts that KEEP=1 left")
    found = {}
    for clients, names in projects.items():
        columns = (
            [fetched[project] / 1e6 for project in names],
            *([answer[figure].get(project, 0) for project in names] for figure in ("first byte", "again")),
        )
        unserved = sum(answer["unserved"][project] for project in names)
        found[clients] = [*map(statistics.median, columns), unserved]
    return answer["version"], found


def caching(sandbox: Sandbox) -> list[Row]:
    """A file of 20 MB that the cache does not have and many want at once, over a wire of 100 Mbit/s to upstream."""
    version, ours = cold_file(sandbox, "cache")
    peers = {name: cold_file(sandbox, name) for name in ("devpi-server", "proxpi")}
    rows = []
    for clients in CLIENTS:
        megabytes = size(sandbox, cold(clients, 0)) / 1e6
        fetched, first, again, unserved = ours[clients]
        what = f"cold 20 MB file, {clients} clients"
        weight, wait = f"{what}, from upstream", f"{what}, slowest first byte"
        rows.append(Row(weight, fetched, megabytes, "the file's size", "", "MB", 1 + SLICE / megabytes / 1e6))
        rows += [
            Row(weight, fetched, seen[clients][0], name, its, "MB") for name, (its, seen) in peers.items()
        ]
        rows.append(Row(wait, first, GOAL_SECONDS, "the goal", "", "s", 1.0))
        rows.append(Row(wait, first, again, "ourselves with the file cached,", f"nginx {version}", "s"))
        rows += [Row(wait, first, seen[clients][1], name, its, "s") for name, (its, seen) in peers.items()]
        rows += [
            Row(f"{what}, clients without the whole file", unserved, seen[clients][3], name, its, "clients")
            for name, (its, seen) in peers.items()
            if seen[clients][3]
        ]
    return rows


def measured() -> list[Row]:
    sandbox = Sandbox("bench-sync", "bench_sync")
    sandbox.fetch_peers()
    make_trees(sandbox)
    with sandbox.hosts():
        return resolving(sandbox) + caching(sandbox)
