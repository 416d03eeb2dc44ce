"""make bench-sync: what a pass of each mode costs, beside the tools one would use without us.

Programs run on this machine, as processes: ours as their units start them, rsync through a daemon on loopback. What
clients and caches cost is measured on hosts of the sandbox (sync_clients.py), where peers are slow: SIZE=quick
takes about eight minutes, of which two are for the programs here. SIZE=full is what documents quote; the trees it
makes take most of an hour, so PARTS names what to measure, of "tiers publish clients" (by default, all).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sync_clients
from report import FULL, ROOT, Row, medians, publish, say, seconds

FILES = 300_000 if FULL else 30_000  # regular files of the served tree
PER_PROJECT = 15  # of which six are pages
CHANGED = 200
PROJECTS = (1_000, 10_000, 100_000) if FULL else (1_000, 10_000)
ROUNDS = 3
PARTS = ("tiers", "publish", "clients")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Mirror:
    """One of our mirrors: its configuration, and its verbs as processes."""

    def __init__(self, root: Path, mode: str, **document: object) -> None:
        self.root, self.served, self.web = root, root / "served", root / "fetched/web"
        root.mkdir(parents=True)
        paths = {"fetched": str(root / "fetched"), "served": str(self.served), "state": str(root / "state")}
        (root / "mirror.json").write_text(
            json.dumps(
                {"name": root.name, "mode": mode, "url": f"https://{root.name}.test", "paths": paths}
                | {"minimum_free_bytes": 0, "check_share_per_day": 0.0}
                | document
            )
        )

    def run(self, verb: str) -> dict[str, object]:
        command = [sys.executable, "-m", "mirrorfleet.cli", verb, "-c", str(self.root / "mirror.json")]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{verb}: exit {done.returncode}\n{done.stderr[-2000:]}")
        summary: dict[str, object] = json.loads(done.stdout)
        return summary


class Tier1(Mirror):
    """A tree as an origin's fetcher leaves it: documents and small files, made up."""

    def __init__(self, root: Path, projects: int, files: int) -> None:
        super().__init__(root, "origin", local_packages=str(root), selection={"projects": []})
        self.files = files
        self.serial = 1
        (self.web / "json").mkdir(parents=True)
        for number in range(projects):
            self.write(f"project-{number}", 1)

    def write(self, name: str, release: int) -> None:
        """The project's document with `release` as its newest, and that release's files."""
        self.serial += 1
        releases = {}
        for version in range(release, release + self.files):
            filename = f"{name.replace('-', '_')}-{version}.tar.gz"
            data = f"{name} {version}\n".encode() * 20
            sha256 = digest(data)
            path = f"packages/{sha256[:2]}/{sha256[2:4]}/{sha256[4:]}/{filename}"
            file = self.web / path
            if not file.exists():
                file.parent.mkdir(parents=True)
                file.write_bytes(data)
            releases[str(version)] = [
                {
                    "filename": filename,
                    "url": f"https://files.test/{path}",
                    "size": len(data),
                    "yanked": False,
                }
                | {"digests": {"sha256": sha256}, "upload_time_iso_8601": "2026-01-01T00:00:00.000000Z"}
            ]
        document = {"info": {"name": name}, "last_serial": self.serial, "releases": releases}
        temporary = self.web / f"json/.{name}"
        temporary.write_text(json.dumps(document))
        temporary.replace(self.web / "json" / name)

    def change(self, count: int, release: int) -> None:
        for number in range(count):
            self.write(f"project-{number * 7}", release)


class Daemon:
    def __init__(self, tree: Path, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "rsyncd.conf").write_text(
            f"use chroot = no\nmunge symlinks = no\n[mirror]\npath = {tree}\nread only = yes\nuid = 0\ngid = 0\n"
        )
        self.process = subprocess.Popen(
            [
                "rsync",
                "--daemon",
                "--no-detach",
                f"--config={folder}/rsyncd.conf",
                "--address=127.0.0.1",
                f"--port={port}",
            ]
        )
        self.url = f"rsync://127.0.0.1:{port}/mirror"
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit("rsync's daemon does not answer")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def rsync_version() -> str:
    said = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", said)
    return found[1] if found else "?"


def tier2(scratch: Path, files: int) -> list[Row]:
    """A tier-2's pass and `rsync -a --delete` of the same tier-1: first, with nothing new, with 200 projects new."""
    say(f"a tier-1 of {files} files")
    tier1 = Tier1(scratch / f"tier1-{files}", files // PER_PROJECT, PER_PROJECT - 6)
    tier1.run("publish")
    # As a tier-1's own sync would: rsync pauses for a tenth of a second when a file it was asked for is not there.
    (tier1.served / "last-modified").write_text("20260101T00:00:00\n")
    daemon = Daemon(tier1.served, scratch / f"rsyncd-{files}")
    plain = scratch / f"plain-{files}"
    ours = Mirror(scratch / f"tier2-{files}", "rsync", rsync={"source": daemon.url})
    version = rsync_version()

    def rsync() -> float:
        return seconds(
            lambda: subprocess.run(["rsync", "-a", "--delete", f"{daemon.url}/", f"{plain}/"], check=True)
        )

    def pull() -> float:
        return seconds(lambda: ours.run("sync"))

    def row(what: str, ours: float, peer: float, goal: float | None) -> Row:
        return Row(f"tier-2 pass, {files} files, {what}", ours, peer, "rsync -a --delete", version, "s", goal)

    try:
        say("the first pass of both")
        rows = [row("first", pull(), rsync(), None)]
        pull()
        say("with nothing new")
        ours_taken, peer_taken = medians(ROUNDS, pull, rsync)
        rows.append(row("nothing new", ours_taken, peer_taken, 1 / 200))
        release = 1

        def changed() -> float:
            nonlocal release
            release += 1
            tier1.change(CHANGED, release)
            tier1.run("publish")
            return pull()

        say(f"with {CHANGED} projects changed")
        ours_taken, peer_taken = medians(ROUNDS, changed, rsync)
        rows.append(row(f"{CHANGED} projects changed", ours_taken, peer_taken, 1 / 30))
    finally:
        daemon.stop()
    for folder in (tier1.root, ours.root, plain):
        shutil.rmtree(folder)
    return rows


def publishing(scratch: Path) -> list[Row]:
    """What publishing costs by how many projects there are: nothing changed, and for each of 100 changed ones."""
    taken = {projects: published(scratch / f"publisher-{projects}", projects) for projects in PROJECTS}
    few = PROJECTS[0]
    return [
        Row(f"publish, {projects} projects, {what}", taken[projects][column], taken[few][column],
            f"{few} projects", "(ourselves)", "s")
        for projects in PROJECTS[1:]
        for column, what in enumerate(("nothing changed", "each changed project"))
    ]  # fmt: skip


def published(root: Path, projects: int) -> tuple[float, float]:
    say(f"publishing among {projects} projects")
    tier1 = Tier1(root, projects, 2)
    tier1.run("publish")
    release = 1

    def publish() -> float:
        return seconds(lambda: tier1.run("publish"))

    def changed() -> float:
        """With the run after it, which removes the files that are no longer named."""
        nonlocal release
        release += 1
        tier1.change(100, release)
        return publish() + publish()

    busy, quiet = medians(ROUNDS, changed, publish)
    shutil.rmtree(root)
    return quiet, (busy - 2 * quiet) / 100


def main() -> None:
    parts = os.environ.get("PARTS", " ".join(PARTS)).split()
    if not parts or not set(parts) <= set(PARTS):
        sys.exit(f"bench-sync: PARTS is {' '.join(parts)!r}, allowed are words of: {' '.join(PARTS)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="mirrorfleet-bench-", dir=os.environ.get("BENCH_DIR")) as name:
        scratch = Path(name)
        if "tiers" in parts:
            rows += [*tier2(scratch, FILES // 10), *tier2(scratch, FILES)]
        if "publish" in parts:
            rows += publishing(scratch)
    if "clients" in parts:
        rows += sync_clients.measured()
    publish("sync", rows)


if __name__ == "__main__":
    main()
