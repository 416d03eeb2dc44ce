#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Report everything that would keep a host from becoming part of the fleet.

Documented in host_preflight.yml beside it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PLATFORMS = ("debian-12", "debian-13")
OLDEST_PYTHON = (3, 11)
CLOCK_TOLERANCE = 30  # seconds
TCP_LISTEN = "0A"
COUNTING_SECONDS = 300

Problems = list[dict[str, str]]


def problem(key: str, what: str, allowed: str, next_step: str) -> dict[str, str]:
    return {"key": key, "problem": what, "allowed": allowed, "next_step": next_step}


def platform_of(os_release: str) -> str:
    """ID-MAJOR of an os-release file's text."""
    fields = dict(re.findall(r"^([A-Z_]+)=[\"']?([^\"'\n]*)[\"']?$", os_release, re.MULTILINE))
    return f"{fields.get('ID', 'unknown')}-{fields.get('VERSION_ID', 'unknown').partition('.')[0]}"


def check_platform(platform: str) -> Problems:
    if platform in PLATFORMS:
        return []
    return [
        problem("platform", f"is {platform}", ", ".join(PLATFORMS), "install a supported release on the host")
    ]


def check_python(version: tuple[int, ...]) -> Problems:
    if version >= OLDEST_PYTHON:
        return []
    return [
        problem(
            "python",
            f"is {'.'.join(map(str, version[:3]))}",
            f"{'.'.join(map(str, OLDEST_PYTHON))} or newer",
            "set ansible_python_interpreter to the system's Python",
        )
    ]


def size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def check_disk(wanted: list[dict[str, Any]]) -> Problems:
    """Room for all paths together, file system by file system."""
    need: dict[int, int] = {}
    first: dict[int, tuple[Path, list[str]]] = {}
    for entry in wanted:
        path = Path(entry["path"])
        parent = next(p for p in (path, *path.parents) if p.exists())
        device = parent.stat().st_dev
        need[device] = need.get(device, 0) + max(entry["bytes"] - held(path, entry["bytes"]), 0)
        first.setdefault(device, (parent, []))[1].append(str(path))
    return [
        problem(
            f"disk at {', '.join(paths)}",
            f"has {size(free)} free",
            f"{size(need[device])} more",
            "add disk, or select fewer projects (mirror_selection)",
        )
        for device, (parent, paths) in first.items()
        if (free := shutil.disk_usage(parent).free) < need[device]
    ]


def held(path: Path, wanted: int = 0, seconds: float = COUNTING_SECONDS) -> int:
    """Bytes a path holds already; hard links count once. What cannot be read counts as nothing; what is too much to be
    counted in time is no new tree, and counts as what is wanted."""
    if not path.is_dir():
        return 0
    try:
        done = subprocess.run(
            ["du", "-s", "-x", "--block-size=1", "--", str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return wanted
    found = re.match(r"([0-9]+)", done.stdout)
    return int(found[1]) if found else 0


def listeners(proc: Path) -> dict[int, set[str]]:
    """By TCP port, the socket inodes that listen on it."""
    found: dict[int, set[str]] = {}
    for name in ("tcp", "tcp6"):
        table = proc / "net" / name
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == TCP_LISTEN:
                found.setdefault(int(fields[1].rpartition(":")[2], 16), set()).add(fields[9])
    return found


def owners(proc: Path, inodes: set[str]) -> dict[str, int]:
    """By process name, one process that holds one of the sockets, as far as we may look."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found: dict[str, int] = {}
    for process in proc.glob("[0-9]*"):
        try:
            if any(os.readlink(link) in wanted for link in (process / "fd").iterdir()):
                found.setdefault((process / "comm").read_text().strip(), int(process.name))
        except OSError:
            continue  # another user's process, or one that just ended
    return found


def check_ports(proc: Path, ports: list[int], ours: dict[str, str]) -> Problems:
    taken = listeners(proc)
    found = []
    for port in ports:
        if port not in taken:
            continue
        holders = owners(proc, taken[port])
        strangers = {
            name: pid for name, pid in holders.items() if name not in ours or not Path(ours[name]).exists()
        }
        if holders and not strangers:
            continue
        names = ", ".join(f"{name} (process {pid})" for name, pid in sorted(strangers.items()))
        found.append(
            problem(
                f"port {port}",
                f"is taken by {names or 'a process that only root can see'}",
                "free, or held by our own " + (", ".join(sorted(ours)) or "services"),
                f"stop {' and '.join(sorted(strangers))} on the host, or move it"
                if names
                else f"see what holds it: ss -ltnp 'sport = {port}'",
            )
        )
    return found


def check_clock(offset: float | None) -> Problems:
    if offset is None or abs(offset) <= CLOCK_TOLERANCE:
        return []
    return [
        problem(
            "clock",
            f"is {abs(offset):.0f} seconds {'ahead of' if offset > 0 else 'behind'} the control node's",
            f"at most {CLOCK_TOLERANCE} seconds off",
            "set the host's clock (timedatectl set-ntp true), or the control node's",
        )
    ]


def check_systemd(root: Path) -> Problems:
    if (root / "run/systemd/system").is_dir():
        return []
    return [
        problem(
            "systemd",
            "is not running",
            "a host booted with systemd",
            "boot the host with systemd as process 1",
        )
    ]


def own_addresses(proc: Path) -> list[str]:
    """The host's addresses, loopback and link-local ones left out."""
    found = set()
    table = proc / "net/fib_trie"
    for address, kind in re.findall(
        r"\|-- ([0-9.]+)\n\s+/32 host (LOCAL)", table.read_text() if table.exists() else ""
    ):
        found.add(ipaddress.ip_address(address) if kind else None)
    table = proc / "net/if_inet6"
    for line in table.read_text().splitlines() if table.exists() else []:
        found.add(ipaddress.ip_address(struct.pack(">QQ", int(line[:16], 16), int(line[16:32], 16))))
    return sorted(str(a) for a in found if a is not None and not a.is_loopback and not a.is_link_local)


def check_names(names: list[str], own: list[str]) -> Problems:
    found = []
    for name in names:
        try:
            answers = {
                ipaddress.ip_address(str(entry[4][0]).partition("%")[0])
                for entry in socket.getaddrinfo(name, 443)
            }
        except (OSError, UnicodeError) as error:
            found.append(
                problem(
                    f"name {name}",
                    f"does not resolve: {error}",
                    "a name of this host in DNS",
                    "add it to DNS, and wait for it",
                )
            )
            continue
        # /etc/hosts of a fresh Debian maps the host's own name to 127.0.1.1, which says nothing about DNS.
        public = {str(answer) for answer in answers if not answer.is_loopback}
        if public - set(own):
            found.append(
                problem(
                    f"name {name}",
                    f"resolves to {', '.join(sorted(public - set(own)))}, which is not this host",
                    f"addresses of this host: {', '.join(own)}",
                    "correct DNS; behind address translation, name the public addresses",
                )
            )
    return found


def result_of(params: dict[str, Any], root: Path = Path("/")) -> dict[str, Any]:
    """The module's whole result."""
    proc = root / "proc"
    platform = platform_of((root / "etc/os-release").read_text())
    offset = None if params["control_time"] is None else round(time.time() - params["control_time"], 1)
    addresses = own_addresses(proc)
    return {
        "platform": platform,
        "python": ".".join(map(str, sys.version_info[:3])),
        "clock_offset": offset,
        "addresses": addresses,
        "problems": [
            *check_platform(platform),
            *check_python(sys.version_info[:3]),
            *check_systemd(root),
            *check_clock(offset),
            *check_disk(params["disk"]),
            *check_ports(proc, params["ports"], params["ours"]),
            *check_names(params["names"], [*addresses, *params["addresses"]]),
        ],
    }


ARGUMENTS: dict[str, Any] = {
    "disk": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "bytes": {"type": "int", "required": True},
        },
    },
    "ports": {"type": "list", "elements": "int", "default": []},
    "ours": {"type": "dict", "default": {}},
    "control_time": {"type": "float"},
    "names": {"type": "list", "elements": "str", "default": []},
    "addresses": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    for entry in module.params["disk"]:
        if not os.path.isabs(entry["path"]):
            module.fail_json(msg=f"disk path {entry['path']!a} is not absolute")
    module.exit_json(changed=False, **result_of(module.params))


if __name__ == "__main__":
    main()
