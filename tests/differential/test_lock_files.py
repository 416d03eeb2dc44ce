"""Lock files move between upstream and any mirror, by the very lines of docs/clients.md, with the clients themselves.

Upstream has its pages on one host name and its files on another, as the large indexes do.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from differential.hostile import Project, Upstream, metadata_of, sdist, sha256, wheel
from faults import fleet
from faults.fleet import Host, Mirror, Site, Tier2

from tests.nginx_material import Names, Nginx

HOUSE = Path(__file__).parents[2]
OLD = "2020-02-03T04:05:06.789012Z"
YESTERDAY = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)).strftime(
    "%Y-%m-%dT%H:%M:%S.%fZ"
)
PROJECT = """[project]
name = "work"
version = "1"
requires-python = ">=3.11"
dependencies = ["{}"]
[tool.poetry]
package-mode = false
[tool.pdm]
distribution = false
"""
# What `poetry source add` does, in less time.
POETRY = """printf '[[tool.poetry.source]]\nname = "mirror"\nurl = "INDEX/simple/"\n' >>pyproject.toml"""
# By lock file, how it is made where nothing but the index is told.
MADE = {
    "uv.lock": "uv lock --default-index INDEX/simple/",
    "pylock.toml": "pip lock --index-url INDEX/simple/ alpha",
    "requirements.txt": "uv pip compile --quiet --generate-hashes --default-index INDEX/simple/ pyproject.toml"
    " --output-file requirements.txt",
    "poetry.lock": f"{POETRY}; poetry lock",
    "pdm.lock": "PDM_PYPI_URL=INDEX/simple/ pdm lock",
    "pdm.lock with URLs": "PDM_PYPI_URL=INDEX/simple/ pdm lock --strategy static_urls",
    "Pipfile.lock": "pipenv lock --pypi-mirror INDEX/simple",
}
COPIES = ["bandersnatch", "origin", "rsync"]
MODES = ["cache", *COPIES]
# Clients that take a second or two go through one mirror; what they lock is the same on all, as the cooldowns show.
SLOW = {
    "poetry.lock": ["rsync"],
    "pdm.lock": ["origin"],
    "pdm.lock with URLs": ["bandersnatch"],
    "Pipfile.lock": ["bandersnatch"],
}


def told(heading: str) -> list[str]:
    """The blocks of commands below a heading of docs/clients.md."""
    page = (HOUSE / "docs/clients.md").read_text()
    (text,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# By lock file the blocks that move it.
MOVES = [
    (lock, commands)
    for heading, locks in {
        "uv.lock": ["uv.lock"] * 3,
        "pylock.toml": ["pylock.toml"],
        "Requirements with hashes": ["requirements.txt"],
        "poetry.lock": ["poetry.lock"],
        "pdm.lock": ["pdm.lock", "pdm.lock with URLs"],
        "Pipfile.lock": ["Pipfile.lock"],
    }.items()
    for lock, commands in zip(locks, told(heading), strict=True)
]
each_move = pytest.mark.parametrize(
    ("lock", "commands"), MOVES, ids=[f"{lock} by {commands.split(None, 1)[0]}" for lock, commands in MOVES]
)


@dataclass
class Work:
    """A project with a home of its own, for clients that know no other index, configuration or cache."""

    folder: Path
    needs: str = "alpha"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.temporary = self.folder.with_name(f"{self.folder.name}.tmp")
        self.temporary.mkdir()
        (self.folder / "pyproject.toml").write_text(PROJECT.format(self.needs))
        (self.folder / "Pipfile").write_text(f'[packages]\n{self.needs} = "*"\n')
        self.run("uv venv --quiet")

    def run(self, commands: str, good: bool = True) -> str:
        ours = ("PIP_", "UV_", "POETRY_", "PDM_", "PIPENV_", "VIRTUAL_ENV", "SSL_", "REQUESTS_", "CURL_")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(ours) and not key.lower().endswith("_proxy")
        }
        told = {
            "PATH": f"{HOUSE}/build/clients/bin:{HOUSE}/.venv/bin:{kept['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.temporary),  # pipenv leaves files there
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_PYTHON": ".venv",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_RETRIES": "0",
            "UV_NO_CONFIG": "1",
            "PDM_CHECK_UPDATE": "0",
            "PIPENV_VENV_IN_PROJECT": "1",
            "POETRY_VIRTUALENVS_IN_PROJECT": "true",
        }
        done = subprocess.run(
            ["sh", "-ec", commands],
            cwd=self.folder,
            env=kept | told,
            capture_output=True,
            text=True,
            check=False,
            timeout=fleet.DEADLINE,
        )
        assert (done.returncode == 0) is good, f"{commands}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def path(self, lock: str) -> Path:
        return self.folder / lock.removesuffix(" with URLs")

    def installed(self) -> dict[str, str]:
        """Which version of each project is there."""
        found = self.folder.glob(".venv/lib/*/site-packages/*.dist-info")
        return dict(info.name.removesuffix(".dist-info").split("-") for info in found)

    def uninstall(self) -> None:
        for name in (".venv", ".cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.run("uv venv --quiet")


def versions(lock: str) -> dict[str, str]:
    """Which version of each project a lock file has."""
    if lock.startswith("{"):
        return {name: one["version"].removeprefix("==") for name, one in json.loads(lock)["default"].items()}
    read = tomllib.loads(lock)
    packages = read.get("package") or read["packages"]
    return {one["name"]: one["version"] for one in packages if one["name"] != "work"}


def hashes(lock: str) -> list[str]:
    return sorted(re.findall(r'\bhash = "(sha256:\w+)"', lock))


class Small(Upstream):
    """Few projects; alpha needs beta, and both get a release that is a day old."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.shape, self.serials = "both", "rising"
        self.asked: list[str] = []
        for name in ("alpha", "beta", "elsewhere", "undated"):
            self.release(name, "1.0", OLD)

    @property
    def files_url(self) -> str:
        return self.url.replace("127.0.0.1", "localhost")

    def release(self, name: str, version: str, uploaded: str) -> None:
        project = self.projects.setdefault(name, Project(name, 0))
        project.serial = self._next()
        own = metadata_of(name, version) + (b"Requires-Dist: beta\n" if name == "alpha" else b"")
        for filename, data in (
            (f"{name}-{version}-py3-none-any.whl", wheel(name, version, own)),
            (f"{name}-{version}.tar.gz", sdist(name, version)),
        ):
            digest = hashlib.blake2b(data, digest_size=32).hexdigest()
            folder = "files" if name == "elsewhere" else f"packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}"
            path = f"/{folder}/{filename}"
            self.files[path] = data
            project.entries[filename] = {
                "filename": filename,
                "url": self.files_url + path,
                "hashes": {"sha256": sha256(data)},
                "size": len(data),
                **({"upload-time": uploaded} if name != "undated" else {}),
                **({"core-metadata": {"sha256": sha256(own)}} if filename.endswith(".whl") else {}),
            }
            self.files[f"{path}.metadata"] = own
            project.versions[filename], project.sizes[filename] = version, len(data)

    def answer(self, path: str) -> tuple[int, str, bytes, int]:
        self.asked.append(path)
        return super().answer(path)


@dataclass
class Place:
    """Where an index is, and its files."""

    index: str
    files: str

    def moved(self, commands: str, old: Place) -> str:
        """Commands of the page, to move a lock file from another place to this one."""
        for name, url in (("INDEX", old.index), ("FILES", old.files), ("MIRROR", self.index)):
            commands = commands.replace(f"https://{name}", url)
        return commands

    def without_hosts(self, text: str) -> str:
        """What a lock file made here says but hosts, and what poetry adds for an index that is not its default one."""
        text = text.replace(self.files, "HOST").replace(self.index, "HOST")
        text = re.sub(r"\[package\.source]\n(.+\n)+\n", "", text)
        return re.sub(r"^content-hash = .*\n", "", text, flags=re.MULTILINE)


def lying(served: Path, copy: Path) -> Path:
    """A mirror's tree with other files of alpha, of which its pages have the hashes and sizes."""
    shutil.copytree(served, copy, symlinks=True)
    for name, new in (
        ("alpha-1.0-py3-none-any.whl", fleet.wheel("alpha", "1.0")),
        ("alpha-1.0.tar.gz", fleet.sdist("alpha", "1.0") + b"more"),
    ):
        (path,) = copy.glob(f"packages/**/{name}")
        old = path.read_bytes()
        path.write_bytes(new)
        for page in (copy / "simple/alpha/index.html", copy / "simple/alpha/index.v1_json"):
            text = page.read_text().replace(sha256(old), sha256(new))
            page.write_text(text.replace(f'"size":{len(old)}', f'"size":{len(new)}'))
    return copy


class World:
    """Upstream, mirrors of it in each mode, and lock files made upstream before the newest releases."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        self.folder = folder
        self.upstream = Small()
        self.sites: dict[str, Site] = {}
        self.places = {"upstream": Place(self.upstream.url, self.upstream.files_url)}
        self.locks = {lock: self.locked(lock) for lock in MADE}
        for name in ("alpha", "beta"):
            self.upstream.release(name, "2.0", YESTERDAY)
        names = list(self.upstream.projects)
        tier1 = Mirror(folder / "tier1", self.upstream.url, names)
        index = f"{self.upstream.url}/simple/"
        origin = Host(folder / "origin", "origin", index_url=index, selection={"projects": names})
        tier2 = Tier2(folder / "tier2", str(tier1.served))
        for mode, host in zip(COPIES, (tier1, origin, tier2), strict=True):
            assert host.run("sync")["good"]
            self.sites[mode] = Site(host.served, folder / f"site of {mode}")
            self.places[mode] = Place(self.sites[mode].url, self.sites[mode].url)
        names_of_hosts = Names()
        names_of_hosts.start()
        (folder / "cache").mkdir()
        self.cache = Nginx(
            folder / "cache",
            certificate,
            names_of_hosts.port,
            name="localhost",
            web_server_on_miss="pass",
            web_server_upstream_index=index,
            web_server_upstream_files=f"{self.upstream.files_url}/",
        )
        self.places["cache"] = Place(self.cache.url, self.cache.url)
        self.lying = Site(lying(tier1.served, folder / "lying"), folder / "site of one that lies")

    def locked(self, lock: str) -> str:
        work = Work(self.folder / f"for {lock}")
        work.run(MADE[lock].replace("INDEX", self.upstream.url))
        return work.path(lock).read_text()

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Nobody else answers."""
        self.upstream.asked.clear()
        self.upstream.askers.clear()
        others = [site for other, site in self.sites.items() if other != name]
        for site in others:
            site.faults({"": 404})
        self.cache.answers(name == "cache")
        try:
            yield
        finally:
            for site in others:
                site.faults({})
            self.cache.answers(True)
        if name == "cache":
            assert self.upstream.askers <= {"mirrorfleet (nginx)"}
        elif name != "upstream":
            assert self.upstream.asked == []

    def stop(self) -> None:
        self.upstream.stop()
        self.cache.stop()
        for site in (*self.sites.values(), self.lying):
            site.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.lower().endswith("_proxy"):
                patch.delenv(name)
        world = World(tmp_path_factory.mktemp("locks"), certificate)
        yield world
        world.stop()


@each_move
def test_a_lock_file_goes_from_upstream_through_mirrors_and_back(
    world: World, tmp_path: Path, lock: str, commands: str
) -> None:
    """It installs from each, which alone is asked, what it says, newer releases or not; and says the same but hosts."""
    work, text = Work(tmp_path / "work"), world.locks[lock]
    work.path(lock).write_text(text)
    modes = SLOW.get(lock, MODES)
    for old, new in itertools.pairwise(["upstream", *modes, "upstream"]):
        with world.alone(new):
            work.run(world.places[new].moved(commands, world.places[old]))
        assert work.installed() == {"alpha": "1.0", "beta": "1.0"}, new
        now = work.path(lock).read_text()
        # Where the page says that it stays as it is, hosts are upstream's all the way.
        place = world.places["upstream" if now == text else new]
        assert place.without_hosts(now) == world.places["upstream"].without_hosts(text), new
        work.uninstall()


(COOLDOWNS,) = told("Only what is some days old")
LOCKS = {
    "uv lock": "uv.lock",
    "pip lock": "pylock.toml",
    "poetry lock": "poetry.lock",
    "pdm lock": "pdm.lock",
    "pipenv lock": "Pipfile.lock",
}


@pytest.mark.parametrize("line", COOLDOWNS.splitlines())
def test_a_cooldown_takes_the_older_release_everywhere_and_lock_files_are_the_same(
    world: World, tmp_path: Path, line: str
) -> None:
    (lock,) = [lock for command, lock in LOCKS.items() if command in line] or [""]
    found = {}
    for name, place in world.places.items():
        work = Work(tmp_path / name)
        told_index = {"poetry.lock": POETRY, "pdm.lock": "export PDM_PYPI_URL=INDEX/simple/"}.get(lock, ":")
        commands = f"{told_index}\n{line.replace('PROJECT', 'alpha').replace('https://MIRROR', 'INDEX')}"
        work.run(commands.replace("INDEX", place.index))
        text = work.path(lock).read_text() if lock else ""
        assert (versions(text) if lock else work.installed()) == {"alpha": "1.0", "beta": "1.0"}, name
        found[name] = place.without_hosts(text)
    assert len(set(found.values())) == 1, found


@each_move
def test_a_mirror_that_has_another_file_is_refused_or_shows_in_the_lock_file(
    world: World, tmp_path: Path, lock: str, commands: str
) -> None:
    """The mirror has other files, and says so; what locks anew believes it, as the page says."""
    work = Work(tmp_path / "work")
    work.path(lock).write_text(world.locks[lock])
    good = "lock" in re.findall(r"^\w+ (\w+)", commands, re.MULTILINE)
    place = Place(world.lying.url, world.lying.url)
    work.run(place.moved(commands, world.places["upstream"]), good=good)
    if good:
        assert hashes(work.path(lock).read_text()) != hashes(world.locks[lock])
    else:
        assert "alpha" not in work.installed()


def test_a_file_that_upstream_keeps_elsewhere_is_found_by_those_who_ask_the_index(
    world: World, tmp_path: Path
) -> None:
    """A cache names it where upstream does (docs/cache.md)."""
    replace, _, anew = told("uv.lock")
    upstream = world.places["upstream"]
    for mode in COPIES:
        work = Work(tmp_path / mode, needs="elsewhere")
        work.run(MADE["uv.lock"].replace("INDEX", upstream.index))
        made = work.path("uv.lock").read_text()
        world.upstream.asked.clear()
        work.run(world.places[mode].moved(replace, upstream))
        assert set(world.upstream.asked) == {"/files/elsewhere-1.0-py3-none-any.whl"}
        work.uninstall()
        work.path("uv.lock").write_text(made)
        with world.alone(mode):
            work.run(world.places[mode].moved(anew, upstream))
        assert work.installed() == {"elsewhere": "1.0"}
        assert hashes(work.path("uv.lock").read_text()) == hashes(made)


def test_a_file_without_upload_time_is_none_for_a_cooldown(world: World, tmp_path: Path) -> None:
    work = Work(tmp_path / "work", needs="undated")
    lines = [line.replace("PROJECT", "undated") for line in COOLDOWNS.splitlines()]
    for place in world.places.values():
        for line in (lines[0], lines[2]):
            assert re.search("upload", work.run(place.moved(line, place), good=False))


def test_pipenv_has_a_mirror_in_place_of_the_default_index_alone(world: World, tmp_path: Path) -> None:
    """Which index is the default one is pipenv's to know; nobody is asked there."""
    page = (HOUSE / "docs/clients.md").read_text()
    install, sync = re.findall(r"`(pipenv (?:install|sync) --pypi-mirror \S+)`", page)
    default = "from pipenv.patched.pip._internal.models.index import PyPI\nprint(PyPI.simple_url.rstrip('/'), end='')"
    work = Work(tmp_path / "work")
    index = subprocess.check_output([HOUSE / "build/clients/bin/python", "-c", default], text=True)
    text, upstream = world.locks["Pipfile.lock"], world.places["upstream"]
    work.path("Pipfile.lock").write_text(text.replace(f"{upstream.index}/simple", index))
    with world.alone("origin"):
        work.run(world.places["origin"].moved(sync, upstream))
        assert work.installed() == {"alpha": "1.0", "beta": "1.0"}
        work.uninstall()
        work.path("Pipfile.lock").unlink()
        work.run(world.places["origin"].moved(install, upstream))
        assert work.installed() == {"alpha": "2.0", "beta": "2.0"}
    # Any other source stays, and is asked.
    work.uninstall()
    work.path("Pipfile.lock").write_text(text)
    work.run(world.places["origin"].moved(sync, upstream))
    assert [path for path in world.upstream.asked if path.endswith(".whl")]
