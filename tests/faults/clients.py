"""Real clients of a mirror: what pip and uv get of a host's served tree, by JSON and by HTML."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# What `pip download` imports as it goes.
import pip._internal.commands.download
import pip._internal.resolution.resolvelib.resolver
from faults.fleet import DEADLINE, Host, fork
from faults.nginx import over
from pip._internal.cli.main import main as pip_main

# Hosts that run all faults side by side share the formats: each fault meets each client in each (molecule/faults).
FORMATS = os.environ.get("CLIENTS_ASK_FOR", "json html").split()
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "uv"


def untold() -> dict[str, str]:
    """The environment of a client that knows no other index, configuration or cache than it is told."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}


def client(*command: object, cwd: Path | None = None, good: bool = True) -> str:
    ran = subprocess.run(
        [str(part) for part in command],
        env=untold(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ran.returncode == 0) is good, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def pip(target: Path, index: str, *what: object, good: bool = True) -> str:
    """As its console script does, in a fork."""

    def run(*arguments: object) -> None:
        told = untold()
        os.environ.clear()
        os.environ.update(told)
        sys.exit(pip_main([str(argument) for argument in arguments]))

    options = ("--no-cache-dir", "--disable-pip-version-check", "--index-url", index, "--no-deps")
    log = target.with_name(f"{target.name}.log")
    process = fork(run, "download", *options, "-d", target, *what, log=log)
    process.join(DEADLINE)
    said = log.read_text()
    assert process.exitcode is not None, said
    assert (process.exitcode == 0) is good, said
    return said


def uv(target: Path, index: str, *what: object, good: bool = True) -> str:
    return client(UV, "pip", "install", "--target", target, "--default-index", index, *what, good=good)


def lock(project: Path, index: str, *dependencies: str) -> str:
    """The uv.lock of a project with these dependencies."""
    project.mkdir()
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "locked"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = {[*dependencies]}\n'
    )
    client(UV, "lock", "--default-index", index, "--python", sys.executable, cwd=project)
    return (project / "uv.lock").read_text()


def newest(host: Host) -> dict[str, dict[str, str]]:
    """The newest wheel that is not yanked of each project that has one: version, hash and upload time."""
    found = {}
    for name in host.names():
        for entry in host.page(name)["files"]:  # in the order of versions
            stem, _, kind = entry["filename"].rpartition(".")
            if kind == "whl" and not entry["yanked"]:
                found[name] = {
                    "version": stem.split("-")[1],
                    "sha256": entry["hashes"]["sha256"],
                    "uploaded": entry.get("upload-time", ""),
                }
    return found


def use(host: Host, folder: Path) -> int:
    """Install all projects of a mirror with each client, in each of FORMATS; the number of projects.

    With hashes by pip and uv, as of a day by `uv --exclude-newer`, and by `uv lock`.
    """
    projects = newest(host)
    if not projects:
        return 0
    requirements = folder / "requirements.txt"
    folder.mkdir()
    requirements.write_text(
        "".join(f"{name}=={one['version']} --hash=sha256:{one['sha256']}\n" for name, one in projects.items())
    )
    server = over(host.served, folder / "nginx")
    try:
        for form in FORMATS:
            url = {"json": server.url, "html": server.of_one_type["text/html"]}[form]
            pip(folder / f"pip-{form}", f"{url}/simple/", "--require-hashes", "-r", requirements)
            uv(folder / f"uv-{form}", f"{url}/simple/", "--require-hashes", "-r", requirements)
            assert len(list((folder / f"pip-{form}").iterdir())) == len(projects)
            assert len(list((folder / f"uv-{form}").glob("*.dist-info"))) == len(projects)
        index = f"{server.url}/simple/"
        pinned = [f"{name}=={one['version']}" for name, one in projects.items()]
        locked = lock(folder / "locked", index, *pinned)
        assert all(one["sha256"] in locked for one in projects.values())
        if all(one["uploaded"] for one in projects.values()):
            uv(folder / "newer", index, "--exclude-newer", "2100-01-01", *pinned)
            uv(folder / "older", index, "--exclude-newer", "2001-01-01", *pinned, good=False)
    finally:
        server.stop()
    return len(projects)
