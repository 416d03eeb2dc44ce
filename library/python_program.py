#!/usr/bin/python
"""Install one Python program into a versioned environment of its own, with a `current` link.

Documented in python_program.yml beside it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PYTHON = "/usr/bin/python3"
WHEELS = "/usr/share/python-wheels"  # where Debian's python3-pip-whl, which python3-venv depends on, has pip
BROUGHT_BY_VENV = {"pip", "setuptools"}
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # what Debian's update-ca-certificates writes
STEP_SECONDS = 1800
TIMED_OUT = 124  # as timeout(1) ends


def canonical(name: str) -> str:
    """Project name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(requirements: str) -> dict[str, str]:
    """Name and version of every line of a hash-locked requirements file; `ValueError` names a line that is not."""
    wanted: dict[str, str] = {}
    for line in requirements.replace("\\\n", " ").splitlines():
        requirement = line.split("#", 1)[0].strip()
        if not requirement:
            continue
        match = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)\s", requirement)
        if not match or "--hash=sha256:" not in requirement:
            raise ValueError(f"not an exact version with a hash: {requirement[:80]!r}")
        wanted[canonical(match[1])] = match[2]
    return wanted


def damaged_files(site: Path, record: Iterable[str]) -> list[str]:
    """Files below `site` that are missing or differ from a RECORD (PyPA: recording installed projects)."""
    bad = []
    for name, digest, _size in csv.reader(record):
        if not digest:  # RECORD itself and bytecode carry none
            continue
        algorithm, _, expected = digest.partition("=")
        try:
            found = hashlib.new(algorithm, (site / name).read_bytes()).digest()
        except OSError:
            bad.append(f"{name} is missing")
            continue
        if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != expected:
            bad.append(f"{name} was changed")
    return bad


def record_of(wheel: Path) -> list[str]:
    """The lines of a wheel's own RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", n)]
        return archive.read(name).decode().splitlines()


def unrecorded_files(site: Path, records: Iterable[str]) -> list[str]:
    """Files in `site` that belong to no distribution; a path configuration file among them would run as code."""
    recorded = {os.path.normpath(name) for name, *_ in csv.reader(records)}
    found = (path.relative_to(site) for path in site.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(
        str(path) for path in found if "__pycache__" not in path.parts and str(path) not in recorded
    )


def way_to(other: Path, site: Path) -> tuple[Path, str]:
    """The file in `site` by which Python imports from another program's current environment, too, and what is in it.

    What is in such a file comes after the environment's own packages (https://docs.python.org/3/library/site.html).
    """
    return site / f"{other.name}.pth", f"{other / 'current' / 'lib' / site.parent.name / site.name}\n"


def problems_of(
    target: Path, wanted: dict[str, str], wheel: Path | None, extended_by: Path | None = None
) -> list[str]:
    """What differs between the environment at `target` and the lock; empty when nothing does."""
    if not target.exists():
        return [f"{target} is not installed"]
    sites = list(target.glob("lib/python3*/site-packages"))
    if len(sites) != 1 or not (target / "bin/python").exists():
        return [f"{target} is half installed"]
    (site,) = sites
    found = {}
    for info in site.glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        found[canonical(name)] = (version, info)
    problems = []
    for name, version in wanted.items():
        if name not in found:
            problems.append(f"{name} is missing")
        elif found[name][0] != version:
            problems.append(f"{name} is {found[name][0]}, not {version}")
    own = {canonical(wheel.name.split("-")[0])} if wheel else set()
    problems += [
        f"{name} is not in the lock" for name in sorted(found.keys() - wanted.keys() - own - BROUGHT_BY_VENV)
    ]
    records: list[str] = []
    for _version, info in found.values():
        try:
            record = (info / "RECORD").read_text(encoding="utf-8").splitlines()
            problems += damaged_files(site, record)
        except (OSError, ValueError) as error:
            problems.append(f"{info.name}: {error}")
        else:
            records += record
    if extended_by is not None:
        path, content = way_to(extended_by, site)
        if path.is_symlink() or not path.is_file() or path.read_bytes() != content.encode():
            problems.append(f"{path.name} is not as declared")
        records.append(path.name)
    problems += [f"{name} belongs to no distribution" for name in unrecorded_files(site, records)]
    if wheel is not None:
        problems += [
            f"{problem} since {wheel.name} was built" for problem in damaged_files(site, record_of(wheel))
        ]
    return problems


def steps(target: Path, pip: Path, *options: str) -> Iterator[list[str]]:
    """The commands that make an environment.

    Its pip is unpacked: ensurepip runs it uncompiled to install itself, which costs as much as all the rest.
    """
    yield [PYTHON, "-m", "venv", "--without-pip", str(target)]
    (site,) = target.glob("lib/python3*/site-packages")
    yield [PYTHON, "-m", "zipfile", "--extract", str(pip), str(site)]
    yield [str(target / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install",
           "--no-cache-dir", "--quiet", "--require-hashes", "--only-binary", ":all:", *options]  # fmt: skip


def install(
    module: AnsibleModule, target: Path, requirements: str, wheel: Path | None, extended_by: Path | None
) -> None:
    """Make the environment anew at its own path, which its programs name; what was there is back if that fails."""
    params = module.params
    pips = sorted(Path(WHEELS).glob("pip-*.whl"))
    if not pips:
        module.fail_json(msg=f"there is no pip in {WHEELS}: install the package python3-venv")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    environment = {"PIP_CERT": CA_BUNDLE} if os.path.exists(CA_BUNDLE) else {}
    with tempfile.TemporaryDirectory() as scratch:
        lock = Path(scratch) / "requirements.txt"
        options = ["-r", str(lock)]
        if wheel is not None:  # whatever it says that it needs: what is locked is all there is
            requirements += f"\n{wheel} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
            options.append("--no-deps")
        lock.write_text(requirements, encoding="utf-8")
        # Not as an argument, which every user of the host can see.
        own_index = {"PIP_INDEX_URL": params["index_url"]} if params["index_url"] else {}
        for step in steps(target, pips[-1], *options):
            code, out, err = module.run_command(
                ["timeout", "--kill-after=10", str(STEP_SECONDS), *step],
                environ_update=environment | own_index,
            )
            if code == TIMED_OUT:
                err = f"nothing, for {STEP_SECONDS} seconds: look at the host's way to its index"
            if code:
                shutil.rmtree(target, ignore_errors=True)
                if aside.exists():
                    aside.rename(target)
                module.fail_json(
                    msg=f"{params['name']} {params['version']} could not be installed into {target}; what was there "
                    f"is untouched. {' '.join(step[1:3])} says: {without_credentials((err or out).strip()[-2000:])}"
                )
    if extended_by is not None:
        for site in target.glob("lib/python3*/site-packages"):
            path, content = way_to(extended_by, site)
            path.write_text(content, encoding="utf-8")
            path.chmod(0o644)
    shutil.rmtree(aside, ignore_errors=True)


def without_credentials(text: str) -> str:
    """A text with URLs in it, as anybody may read it."""
    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s\x22<>]*@", r"\1", text)


def current_version(link: Path) -> str:
    return os.readlink(link) if link.is_symlink() else ""


def point(link: Path, version: str) -> None:
    scratch = link.with_name(".current.new")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(version)
    scratch.rename(link)


def gated(noted: Path, name: str) -> str | None:
    """The version that last passed the gate of an update that is not at its end; None where the note cannot be read."""
    try:
        found = json.loads(noted.read_bytes())["gated"].get(name, "")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def run(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    for key in ("name", "version", *(["extended_by"] if params["extended_by"] else [])):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", params[key]) or params[key] == "current":
            module.fail_json(
                msg=f"{key}: {params[key]!r} is refused; letters, digits and . ! + _ - are allowed."
            )
    try:
        wanted = pins(params["requirements"])
    except ValueError as error:
        module.fail_json(msg=f"requirements of {params['name']} {params['version']}: {error}")
    wheel = Path(params["wheel"]) if params["wheel"] else None
    extended_by = Path(params["root"]) / params["extended_by"] if params["extended_by"] else None
    home = Path(params["root"]) / params["name"]
    target, link = home / params["version"], home / "current"
    previous = current_version(link)
    # In check mode on a bare host the wheel has not been copied yet: not installed is the answer all the same.
    problems = (
        problems_of(target, wanted, wheel, extended_by)
        if wheel is None or wheel.exists()
        else [f"{target} is not installed: {wheel.name} is not on the host"]
    )
    relink = previous != params["version"]
    result = {
        "changed": bool(problems) or relink,
        "previous": previous,
        "version": params["version"],
        "problems": problems,
        "diff": {
            "before": f"current: {previous}\n",
            "after": f"current: {params['version']}\n",
        },
    }
    if module.check_mode:
        return result
    if problems:
        install(module, target, params["requirements"], wheel, extended_by)
        if still := problems_of(target, wanted, wheel, extended_by):
            module.fail_json(
                msg=f"{target} does not match its lock right after installation: {'; '.join(still[:5])}"
            )
    if relink:
        point(link, params["version"])
        last = gated(Path(params["noted"]), params["name"])
        kept = {params["version"], previous, last, "dist"}
        for other in home.iterdir() if last is not None else ():
            if other.is_dir() and not other.is_symlink() and other.name not in kept:
                shutil.rmtree(other)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "requirements": {"type": "str", "required": True},
            "wheel": {"type": "path"},
            "extended_by": {"type": "str", "default": ""},
            "index_url": {"type": "str", "default": ""},
            "root": {"type": "path", "default": "/opt"},
            "noted": {"type": "path", "default": "/etc/mirrorfleet/update.json"},
        },
        supports_check_mode=True,
    )
    # What was run is told with its arguments.
    module.no_log_values |= set(
        re.findall(r"^[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]+)@", module.params["index_url"])
    )
    module.exit_json(**run(module))


if __name__ == "__main__":
    main()
