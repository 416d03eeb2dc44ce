#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Bring a host back to what it was before host_state changed it for the first time.

Documented in host_undo.yml beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

UNIT_FOLDERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system")
CERTIFICATES = "/usr/local/share/ca-certificates/"
LONGEST = 600  # seconds, of one step on the host; apt's removal of packages is the slowest
Journal = dict[str, dict[str, Any]]


class UndoError(Exception):
    """A step failed; what was done before it stays done, and a second run goes on."""


def run(*command: str, needed: bool = True) -> str:
    environment = os.environ | {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=LONGEST
    )
    if needed and done.returncode != 0:
        raise UndoError(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def of(journal: Journal, kind: str) -> dict[str, dict[str, Any]]:
    """What is remembered of a kind, by name."""
    return {key.partition(" ")[2]: facts for key, facts in journal.items() if key.partition(" ")[0] == kind}


def our_units(paths: dict[str, dict[str, Any]], units: dict[str, dict[str, Any]]) -> list[str]:
    """Units that were not there: of files that were not, and of packages that were not."""
    defined = {
        os.path.basename(path)
        for path, facts in paths.items()
        if facts["state"] == "absent" and os.path.dirname(path) in UNIT_FOLDERS
    }
    return sorted({*defined, *(name for name, facts in units.items() if facts.get("state") == "not found")})


def stop_units(names: list[str]) -> None:
    """Timers and paths first, which would start services again; instances of templates, too."""
    starting = (".timer", ".path", ".socket")
    for name in sorted(names, key=lambda one: not one.endswith(starting)):
        pattern = name.replace("@.", "@*.")
        run("systemctl", "stop", pattern, needed=False)
        run("systemctl", "disable", name, needed=False)
        run("systemctl", "unmask", name, needed=False)
        Path(f"/var/lib/systemd/timers/stamp-{name}").unlink(missing_ok=True)


def restore_paths(paths: dict[str, dict[str, Any]], found: Path, keep: list[str]) -> None:
    """Deepest first, so that a folder is looked at when what was put into it is gone."""
    for path in sorted(paths, key=lambda one: (-one.count("/"), one)):
        facts, at = paths[path], Path(path)
        if any(path == kept or path.startswith(f"{kept}/") or kept.startswith(f"{path}/") for kept in keep):
            continue
        if facts["state"] == "directory":
            if at.is_dir() and not at.is_symlink():
                os.chown(at, facts["owner"], facts["group"])
                at.chmod(int(facts["mode"], 8))
            continue
        remove(at)
        if facts["state"] == "saved":
            saved = found / "paths" / urllib.parse.quote(path, safe="")
            at.parent.mkdir(parents=True, exist_ok=True)
            run("cp", "--archive", "--no-target-directory", str(saved), path)


def remove(path: Path) -> None:
    if path.is_symlink() or path.is_file() or path.is_socket():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def remove_empty_parents(path: Path) -> None:
    """Folders that a program made for what is removed, but none at the top of the tree, as /var and /opt."""
    for parent in path.parents:
        if len(parent.parts) <= 2 or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()


def restore_firewall(found: Path) -> None:
    saved = found / "firewall.nft"
    if saved.exists() and shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        run("nft", "-f", str(saved))


def would_go(*arguments: str) -> set[str]:
    """What apt would remove."""
    lines = run("apt-get", "--simulate", "purge", *arguments).splitlines()
    return {line.split()[1].partition(":")[0] for line in lines if line.startswith(("Purg ", "Remv "))}


def remove_packages(journal: Journal) -> list[str]:
    """Those that were installed for the fleet, and what came with them and nobody else depends on."""
    named = {name for name, facts in of(journal, "package").items() if facts.get("state") == "absent"}
    there = set(run("dpkg-query", "--show", "--showformat=${Package}\n").split())
    ours = (named | came_along(journal, "package")) & there
    if not ours:
        return []
    # What others only recommend or suggest does not keep it: it came with ours.
    only = (f"-oAPT::AutoRemove::{kind}Important=false" for kind in ("Recommends", "Suggests"))
    leaving = would_go("--autoremove", *only, *(named & there)) & ours
    # Some that came along apt would not remove by itself, for their priority.
    for name in sorted(ours - leaving):
        if (alone := would_go(name, *leaving)) <= ours:
            leaving |= alone
    run("apt-get", "--quiet", "--yes", "purge", *sorted(leaving))
    for name in leaving:  # what they wrote
        for folder in ("/var/log", "/var/lib", "/var/cache"):
            remove(Path(folder, name))
    return sorted(leaving)


def came_along(journal: Journal, kind: str) -> set[str]:
    words = (entry.split(" ") for entry in journal["packages"]["came"])
    return {name for found, name in words if found == kind}


def remove_accounts(journal: Journal) -> None:
    """Those that were made for the fleet, and those of packages that left, which leave them."""
    for kind, table, remove_one in (("user", "passwd", "userdel"), ("group", "group", "groupdel")):
        made = {name for name, facts in of(journal, kind).items() if facts.get("state") == "absent"}
        for name in sorted(made | came_along(journal, kind)):
            if run("getent", table, name, needed=False):
                run(remove_one, name, needed=name in made)


def restore_units(units: dict[str, dict[str, Any]]) -> None:
    """As they were enabled, masked and running, of what there was."""
    for name, facts in units.items():
        if facts.get("state") == "not found":
            continue
        if facts.get("masked") in {"yes", "until reboot"}:
            run("systemctl", "mask", name, needed=False)
        if "enabled" in facts:
            was = facts["enabled"] in {"enabled", "static", "alias", "indirect", "generated"}
            run("systemctl", "enable" if was else "disable", name, needed=False)
        if "active" in facts:
            ran = facts["active"].split(" ")[0] in {"active", "reloading", "activating"}
            run("systemctl", "start" if ran else "stop", name, needed=False)


def undo(state: Path, keep: list[str], also: list[str]) -> dict[str, Any]:
    """Everything, in the order in which nothing that still runs loses what it stands on."""
    found = state / "found"
    journal: Journal = json.loads((found / "journal.json").read_text())
    paths, units = of(journal, "path"), of(journal, "unit")
    stop_units(our_units(paths, units))
    restore_paths(paths, found, keep)
    for path in also:
        if not any(kept == path or kept.startswith(f"{path}/") for kept in keep):
            remove(Path(path))
            remove_empty_parents(Path(path))
    if any(path.startswith(CERTIFICATES) for path in paths):
        run("update-ca-certificates", "--fresh")
    run("systemctl", "daemon-reload")
    restore_firewall(found)
    removed = remove_packages(journal)
    run("systemctl", "daemon-reload")
    remove_accounts(journal)
    restore_units(units)
    run("systemctl", "reset-failed", needed=False)
    shutil.rmtree(state)
    return {"changed": True, "packages": removed}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state_directory": {"type": "path", "default": "/var/lib/host_state"},
            "keep": {"type": "list", "elements": "path", "default": []},
            "also": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    state = Path(module.params["state_directory"])
    if not (state / "found/journal.json").exists():
        module.exit_json(changed=False, packages=[])
    if module.check_mode:
        module.exit_json(changed=True, packages=[])
    try:
        module.exit_json(**undo(state, module.params["keep"], module.params["also"]))
    except (UndoError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=f"{error}. Mend it and run again: what is done stays done.")


if __name__ == "__main__":
    main()
