#!/usr/bin/python
"""Keep one generation of a host's configuration, and bring it back. Documented in host_generation.yml beside it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

Entry = tuple[str, int, int, int, bytes]  # kind, mode, owner, group, content or what a link says


def entry(path: Path) -> Entry | None:
    """What is there; None where nothing is, and of what is neither file, folder nor link."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    told = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    if stat.S_ISLNK(found.st_mode):
        return ("link", 0, *told[1:], os.readlink(path).encode())
    if stat.S_ISDIR(found.st_mode):
        return ("folder", *told, b"")
    return ("file", *told, path.read_bytes()) if stat.S_ISREG(found.st_mode) else None


def below(path: Path) -> Iterator[Path]:
    """The path and all that is in it, folders before what they hold; no link is followed."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for one in sorted(path.iterdir()):
            yield from below(one)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def place(source: Path, target: Path) -> None:
    """One entry with its owner, mode and time; a file or link takes its name at once, and is never half there."""
    wanted = entry(source)
    if wanted is None:
        return
    kind, mode, owner, group, content = wanted
    if kind == "folder":
        if (there := entry(target)) and there[0] != "folder":
            remove(target)
        target.mkdir(mode=0o700, exist_ok=True)
        os.chown(target, owner, group)
        target.chmod(mode)
        return
    aside = target.with_name(f".{target.name}.host_generation")
    remove(aside)
    if kind == "link":
        aside.symlink_to(os.fsdecode(content))
        os.lchown(aside, owner, group)
    else:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), owner, group)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        times = source.stat()
        os.utime(aside, ns=(times.st_atime_ns, times.st_mtime_ns))
    if (there := entry(target)) and there[0] == "folder":
        remove(target)
    aside.replace(target)


def keep(paths: list[Path], folder: Path) -> None:
    """A copy of what is there. The former one goes when the new one is whole."""
    new = folder.with_name(f"{folder.name}.new")
    remove(new)
    new.mkdir(mode=0o700, parents=True)
    for path in paths:
        inside = new / path.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        for one in below(path):
            place(one, inside / one.relative_to(path))
    remove(folder)
    new.rename(folder)


def differing(paths: list[Path], folder: Path) -> list[str]:
    """Which paths are not what was kept of them, with all that is in them."""

    def told(path: Path) -> dict[str, Entry]:
        return {str(one.relative_to(path)): what for one in below(path) if (what := entry(one))}

    return [str(path) for path in paths if told(path) != told(folder / path.relative_to("/"))]


def bring_back(path: Path, folder: Path) -> None:
    """First what was kept, then nothing that was not: what a file names is there before the file is."""
    kept = folder / path.relative_to("/")
    for one in below(kept):
        target = path / one.relative_to(kept)
        if entry(one) != entry(target):
            place(one, target)
    if entry(kept) is None:
        remove(path)
        return
    for one in list(below(path)):
        if entry(kept / one.relative_to(path)) is None:
            remove(one)


def result_of(params: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """The module's whole result."""
    folder, paths = Path(params["folder"]), [Path(one) for one in params["paths"]]
    there = folder.is_dir()
    if params["state"] == "kept":
        if (params["anew"] or not there) and not check:
            keep(paths, folder)
        return {"changed": False, "there": there, "paths": []}
    if not there:
        return {"changed": False, "there": False, "paths": []}
    found = differing(paths, folder)
    for path in found if not check else []:
        bring_back(Path(path), folder)
    return {"changed": bool(found), "there": True, "paths": found}


ARGUMENTS: dict[str, Any] = {
    "paths": {"type": "list", "elements": "path", "required": True},
    "folder": {"type": "path", "default": "/etc/mirrorfleet/former"},
    "state": {"type": "str", "choices": ["kept", "restored"], "default": "kept"},
    "anew": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        found = result_of(module.params, check=module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"the configuration cannot be {module.params['state']}: {error}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
