"""A fleet of processes on this machine: an origin of made-up projects, its web server, mirrors of it."""

import atexit
import contextlib
import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, ClassVar

from faults import static_site

from mirrorfleet.cli import main

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src"
BANDERSNATCH = Path(sys.executable).with_name("bandersnatch")
DEADLINE = 120  # seconds that anything here may take before it counts as hung


def _hung(*_: object) -> None:
    raise AssertionError(f"it took more than {DEADLINE} seconds")


def wait_for(condition: Callable[[], bool]) -> None:
    """Of what another process does there is no news but to look again."""
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def fork(work: Callable[..., object], *arguments: object, log: Path) -> ForkProcess:
    """Run a function in a fork of this process: Python's start and imports cost more than what is asked here.

    What it says goes to `log`; by `SystemExit` it sets the exit code.
    """

    def run() -> None:
        sys.stdout = sys.stderr = log.open("w", buffering=1)
        for stream in (1, 2):
            os.dup2(sys.stdout.fileno(), stream)
        work(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return process


def wheel(name: str, version: str, size: int = 200) -> bytes:
    stream = io.BytesIO()
    filler = hashlib.shake_256(f"{name} {version}".encode()).digest(size)
    with zipfile.ZipFile(stream, "w") as archive:
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        for path, text in (
            (f"{name.replace('-', '_')}.py", f"version = {version!r}\n".encode()),
            (f"{name.replace('-', '_')}_data.bin", filler),
            (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()),
            (
                f"{info}/WHEEL",
                b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            ),
            (f"{info}/RECORD", b""),
        ):
            archive.writestr(zipfile.ZipInfo(path), text)
    return stream.getvalue()


def sdist(name: str, version: str) -> bytes:
    stream = io.BytesIO()
    data = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        member = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@functools.cache
def bandersnatch() -> Path:
    """The program in an environment that finds our filters after its own packages, as roles/sync_client has it."""
    folder = Path(tempfile.mkdtemp(prefix="bandersnatch-"))
    atexit.register(shutil.rmtree, folder)
    packages = folder / "lib/python{}.{}/site-packages".format(*sys.version_info)
    points = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]["entry-points"]
    info = packages / "mirrorfleet-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mirrorfleet\nVersion: 0\n")
    with (info / "entry_points.txt").open("w") as file:
        for group, found in points.items():
            file.write(f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in found.items()))
    (packages / "mirrorfleet.pth").write_text(f"{sysconfig.get_path('purelib')}\n{SOURCE}\n")
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    program = folder / "bin/bandersnatch"
    program.parent.mkdir()
    program.with_name("python").symlink_to(Path(sys.executable).resolve())
    program.write_text(
        f"#!{program.with_name('python')}\nfrom bandersnatch.main import main\n\nraise SystemExit(main())\n"
    )
    program.chmod(0o755)
    return program


class Host:
    """A directory that stands for a host: its mirror.json, its trees, its runs."""

    made: ClassVar[list["Host"]] = []  # by the test that runs

    def __init__(self, root: Path, mode: str, **document: Any) -> None:
        self.root = root
        self.made.append(self)
        self.fetched, self.served, self.state = root / "fetched", root / "served", root / "state"
        root.mkdir(parents=True)
        self.document: dict[str, Any] = {
            "name": root.name,
            "mode": mode,
            "url": f"https://{root.name}.fleet.test",
            "paths": {
                "fetched": str(self.fetched),
                "served": str(self.served),
                "state": str(self.state),
                "metrics": str(root / "metrics.prom"),
            },
            "minimum_free_bytes": 0,
            "timeout": 5,
            "tries": 2,
            **document,
        }
        self.configure()

    def configure(self, **changes: Any) -> None:
        self.document |= changes
        (self.root / "mirror.json").write_text(json.dumps(self.document))

    def command(self, verb: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "mirrorfleet.cli", verb, "-c", str(self.root / "mirror.json"), *options]

    def start(self, verb: str, *options: str) -> subprocess.Popen[str]:
        log = (self.root / "log").open("a")
        return subprocess.Popen(
            self.command(verb, *options),
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    def run(self, verb: str, *options: str, expect: int | None = 0) -> dict[str, Any]:
        """Run a verb to its end, in this process to save its start, and return its summary line."""
        printed, logged = io.StringIO(), io.StringIO()
        signal.signal(signal.SIGALRM, _hung)
        signal.alarm(DEADLINE)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(logged):
                code = main(self.command(verb, *options)[3:])
        finally:
            signal.alarm(0)
            self.log = logged.getvalue()
        assert expect is None or code == expect, f"exit {code}\n{printed.getvalue()}\n{self.log}"
        summary: dict[str, Any] = json.loads(printed.getvalue()) if printed.getvalue() else {}
        return summary

    # What it serves

    def page(self, name: str) -> Any:
        return json.loads((self.served / "simple" / name / "index.v1_json").read_bytes())

    def files(self, name: str) -> dict[str, Any]:
        return {entry["filename"]: entry for entry in self.page(name)["files"]}

    def names(self) -> list[str]:
        root = json.loads((self.served / "simple/index.v1_json").read_bytes())
        return [entry["name"] for entry in root["projects"]]

    def status(self) -> Any:
        return json.loads((self.served / "mirror.json").read_bytes())

    def metric(self, name: str) -> float:
        found = re.search(
            rf"^mirrorfleet_{name} (\S+)$", (self.root / "metrics.prom").read_text(), re.MULTILINE
        )
        assert found, f"no metric {name}"
        return float(found[1])

    def reasons(self) -> tuple[dict[str, float], dict[str, float]]:
        """How many projects are late and set aside, by reason, as mirror.json and the metrics say alike."""
        text = (self.root / "metrics.prom").read_text()
        late, aside = (
            {
                kind: float(count)
                for kind, count in re.findall(
                    rf'^mirrorfleet_{name}_projects{{reason="([^"]*)"}} (\S+)$', text, re.MULTILINE
                )
            }
            for name in ("late", "stuck")
        )
        status = self.status()
        assert (late, aside) == (status["late"], status["set_aside_by_reason"])
        assert sum(aside.values()) == len(status["set_aside"])
        return late, aside

    def broken(self) -> list[str]:
        """What is wrong with the served tree as it lies there: pages that name files that are not as named."""
        problems = []
        for link in sorted((self.served / "simple").iterdir()):
            if link.is_dir():
                problems += check_pages(self.served, link.name)
        return problems

    def leftovers(self) -> list[str]:
        """Files that nobody names, temporary files, snapshots that are not current, empty directories."""
        named = set()
        for name in self.names():
            for entry in self.page(name)["files"]:
                path = entry["url"].removeprefix("../../")
                named |= {path, path + ".metadata"} if entry["core-metadata"] else {path}
        found = [str(p) for p in self.root.rglob(".mirrorfleet-*")]
        for tree in (self.served, self.fetched / "web"):
            for path in (tree / "packages").rglob("*"):
                relative = str(path.relative_to(tree))
                if path.is_dir():
                    found += [] if any(path.iterdir()) else [str(path)]
                elif relative not in named:
                    found.append(str(path))
        for directory in (self.served / "pages").iterdir():
            current = os.readlink(directory / "cur") if (directory / "cur").is_symlink() else None
            found += [str(p) for p in directory.iterdir() if p.name not in ("cur", current)]
        return found


def check_pages(tree: Path, name: str) -> list[str]:
    problems = []
    directory = Path(os.path.realpath(tree / "simple" / name))
    document = json.loads((directory / "index.v1_json").read_bytes())
    html = (directory / "index.html").read_text()
    legacy = json.loads((directory.parent / "pypi/json").read_bytes())
    listed = sorted(entry["filename"] for entry in document["files"])
    if listed != sorted(re.findall(r">([^<]+)</a>", html)):
        problems.append(f"{name}: HTML and JSON differ")
    if listed != sorted(entry["filename"] for entries in legacy["releases"].values() for entry in entries):
        problems.append(f"{name}: simple and legacy differ")
    for page in ("simple/index.html", "simple/index.v1_json", "pypi/json"):
        plain = directory.parent / page
        if gzip.decompress(plain.with_name(plain.name + ".gz").read_bytes()) != plain.read_bytes():
            problems.append(f"{name}: {page}.gz differs")
    for entry in document["files"]:
        path = tree / entry["url"].removeprefix("../../")
        if not path.is_file() or path.stat().st_size != entry["size"]:
            problems.append(f"{name}: {entry['filename']} is not there with {entry['size']} bytes")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["hashes"]["sha256"]:
            problems.append(f"{name}: {entry['filename']} has another hash")
        if entry["core-metadata"]:
            sidecar = path.with_name(path.name + ".metadata")
            if hashlib.sha256(sidecar.read_bytes()).hexdigest() != entry["core-metadata"]["sha256"]:
                problems.append(f"{name}: the sidecar of {entry['filename']} has another hash")
    return problems


class Origin(Host):
    """An origin whose projects are made here, changed, yanked, quarantined and deleted at will."""

    def __init__(self, root: Path) -> None:
        self.local = root.with_name(root.name + "-packages")
        self.local.mkdir(parents=True)
        super().__init__(root, "origin", local_packages=str(self.local))

    def release(self, name: str, version: str, *, size: int = 200) -> None:
        directory = self.local / name
        directory.mkdir(exist_ok=True)
        stem = f"{name.replace('-', '_')}-{version}"
        for path, data in (
            (directory / f"{stem}-py3-none-any.whl", wheel(name, version, size)),
            (directory / f"{stem}.tar.gz", sdist(name, version)),
        ):
            path.write_bytes(data)
            os.utime(path, (1_600_000_000, 1_600_000_000))

    def withdraw(self, name: str, version: str) -> None:
        for path in (self.local / name).glob(f"*-{version}[-.]*"):
            path.unlink()

    def delete(self, name: str) -> None:
        for path in (self.local / name).iterdir():
            path.unlink()
        (self.local / name).rmdir()

    def facts(self, name: str, **facts: Any) -> None:
        (self.local / name / "project.json").write_text(json.dumps(facts))

    def publish(self, *options: str) -> None:
        self.run("sync", *options)


class Site:
    """The origin's (or any tier's) web server: a process of its own, with faults on demand."""

    def __init__(self, tree: Path, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._faults = directory / "faults.json"
        port_file = directory / "port"
        self.process = fork(static_site.run, tree, port_file, self._faults, log=directory / "log")

        def listens() -> bool:
            assert self.process.is_alive(), (directory / "log").read_text()
            return port_file.exists()

        wait_for(listens)
        self.port = int(port_file.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def faults(self, faults: dict[str, Any]) -> None:
        temporary = self._faults.with_suffix(".new")
        temporary.write_text(json.dumps(faults))
        temporary.replace(self._faults)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(DEADLINE)
        assert not self.process.is_alive()


class Mirror(Host):
    """A mirror in mode bandersnatch, with the real bandersnatch."""

    def __init__(self, root: Path, upstream: str, projects: list[str], **document: Any) -> None:
        self.upstream = upstream
        super().__init__(
            root,
            "bandersnatch",
            upstream=upstream,
            index_url=f"{upstream}/simple/",
            selection={"projects": projects},
            bandersnatch={
                "program": str(bandersnatch()),
                "config": str(root / "bandersnatch.conf"),
                "timeout": DEADLINE - 20,
            },
            **document,
        )
        self.select(projects)

    def select(self, projects: list[str], **selection: Any) -> None:
        """What the inventory's selection becomes on a host: both files."""
        self.configure(selection={"projects": projects, **selection})
        ours = {"mirrorfleet_names": "", "mirrorfleet_places": ""}
        if kept := selection.get("releases_kept"):
            ours["mirrorfleet_newest"] = f"[mirrorfleet_newest]\nkeep = {kept}"
        if platforms := selection.get("platforms_excluded"):
            ours["mirrorfleet_platforms"] = f"[mirrorfleet_platforms]\nexcluded = {' '.join(platforms)}"
        if projects:
            names = "".join(f"\n    {name}" for name in projects)
            ours["allowlist_project"] = f"[allowlist]\npackages ={names}"
        enabled, sections = "".join(f"\n    {name}" for name in ours), "\n".join(ours.values())
        (self.root / "bandersnatch.conf").write_text(
            f"""[mirror]
directory = {self.fetched}
master = {self.upstream}
allow-non-https = true
api-method = simple
json = true
simple-format = ALL
timeout = 5
workers = 3
hash-index = false
stop-on-error = false
compare-method = hash
[plugins]
enabled ={enabled}
{sections}
"""
        )


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


class Tier2(Host):
    """A mirror in mode rsync, with the real rsync; its source is a directory, an rsync daemon or a host."""

    def __init__(self, root: Path, source: str, **document: Any) -> None:
        super().__init__(root, "rsync", rsync={"source": source, "timeout": 20}, **document)


class Daemon:
    """An rsync daemon over a served tree, as a tier-1 offers it."""

    def __init__(self, tree: Path, directory: Path) -> None:
        directory.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (directory / "rsyncd.conf").write_text(
            f"use chroot = no\nmunge symlinks = no\npid file = {directory}/pid\nlog file = {directory}/log\n"
            f"[mirror]\npath = {tree}\nread only = yes\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        )
        self.process = subprocess.Popen(
            shlex.split(
                f"rsync --daemon --no-detach --config={directory}/rsyncd.conf --address=127.0.0.1 --port={port}"
            )
        )
        self.url = f"rsync://127.0.0.1:{port}/mirror"

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)
