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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PLATFORMS = ("debian-12", "debian-13")
OLDEST_PYTHON = (3, 11)
CLOCK_TOLERANCE = 30  # seconds
TCP_LISTEN = "0A"
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
APT_SECONDS = 120  # until apt has to have answered

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
        need[device] = need.get(device, 0) + max(entry["bytes"] - held(path), 0)
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


def held(path: Path) -> int:
    """Bytes a path holds already; hard links count once. What cannot be read counts as nothing."""
    if not path.is_dir():
        return 0
    done = subprocess.run(
        ["du", "-s", "-x", "--block-size=1", "--", str(path)], capture_output=True, text=True, check=False
    )
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


def kernel_knows(family: str) -> bool:
    """Whether a socket of this family can be made at all."""
    try:
        socket.socket(FAMILIES[family], socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def default_routes(proc: Path) -> set[str]:
    """The address families that have a way out."""
    found = set()
    for family, name, nowhere in (
        ("ipv4", "route", r"^(?!lo\b)\S+\s+0{8}\s+\S+\s+\S+\s+\S+\s+\S+\s+\S+\s+0{8}\b"),
        ("ipv6", "ipv6_route", r"^0{32} 00 (?!.* lo$)"),
    ):
        table = proc / "net" / name
        if table.exists() and re.search(nowhere, table.read_text(), re.MULTILINE):
            found.add(family)
    return found


def check_families(proc: Path, families: list[str], within: bool, knows: Callable[[str], bool]) -> Problems:
    """Whether the host has the address families that its record claims. Within a network of its own a host needs no way
    out of it."""
    has = {"ipv6" if ":" in one else "ipv4" for one in own_addresses(proc)}
    out = default_routes(proc)
    lacks = {}
    for family in families:
        name = {"ipv4": "IPv4", "ipv6": "IPv6"}[family]
        if not knows(family):
            lacks[family] = f"its kernel does not know {name}"
        elif family not in has:
            lacks[family] = f"it has no {name} address that others can reach"
        elif family not in out and not within:
            lacks[family] = f"it has no default route for {name}"
    left = ", ".join(one for one in families if one not in lacks)
    return [
        problem(
            "mirror_address_families",
            f"has {family}, but {why}",
            "the families in which the host is reached",
            f"give the host {family}"
            + (f", or say mirror_address_families: [{left}] in its record" if left else ""),
        )
        for family, why in lacks.items()
    ]


def check_files(files: dict[str, str]) -> Problems:
    """Files in PEM that the operator keeps on the host."""
    found = []
    for key, path in files.items():
        try:
            what = "" if "-----BEGIN " in Path(path).read_text("ascii") else "which is no PEM file"
        except OSError as error:
            what = f"which cannot be read: {error.strerror}"
        except ValueError:
            what = "which is no PEM file"
        if what:
            next_step = f"put it there, or correct {key}; or choose another tls_mode"
            found.append(problem(key, f"is {path}, {what}", "a file in PEM on the host", next_step))
    return found


def versions_of(package: str, *options: str) -> list[str]:
    """The versions of a package that apt knows, the newest first."""
    done = run("apt-cache", *options, "madison", package)
    fields = [line.split("|") for line in done.stdout.splitlines()]
    return list(dict.fromkeys(one[1].strip() for one in fields if len(one) > 2))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A program of the host's, in plain words and with an end."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=APT_SECONDS,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def newest_lists(package: str) -> tuple[list[str], str]:
    """The versions that the archives have now, and what apt said if it could not ask. The host's own lists stay."""
    with tempfile.TemporaryDirectory(prefix="host_preflight-") as folder:
        (Path(folder) / "partial").mkdir()
        options = (
            *("-o", f"Dir::State::lists={folder}", "-o", "APT::Sandbox::User="),
            *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
        )
        done = run("apt-get", *options, "-o", "Acquire::http::Timeout=10", "-qq", "update")
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return versions_of(package, *options), said[0] if said else ""


def check_packages(platform: str, packages: dict[str, dict[str, str]]) -> Problems:
    """Whether an archive of the host has the versions that the fleet pins; `*` in a pin stands for any rest."""
    found = []
    for package, pins in packages.items():
        key, pin = f"fleet_versions.{package}.{platform}", pins.get(platform)
        if pin is None:
            continue
        wanted = re.compile(re.escape(pin).replace(r"\*", ".*"))
        installed = run("dpkg-query", "-W", "-f", "${Version}", package).stdout.split()
        if any(wanted.fullmatch(one) for one in (*installed, *versions_of(package))):
            continue
        known, said = newest_lists(package)
        if any(wanted.fullmatch(one) for one in known):
            continue
        if known:
            series = re.match(r"(?:[0-9]+:)?[0-9]+(?:[.][0-9]+)?", known[0])
            next_step = (
                f'pin what there is, in fleet.yml: {platform}: "{series[0] if series else known[0]}.*"'
            )
        else:
            next_step = f"see on the host what apt-get update says{f' (here: {said})' if said else ''}"
        found.append(
            problem(
                key,
                f"is {pin!r}, which no archive of this host has",
                ", ".join(known) or f"an archive with {package} in the host's /etc/apt/sources.list",
                next_step,
            )
        )
    return found


def check_pins(platform: str, versions: dict[str, dict[str, str]]) -> Problems:
    if platform not in PLATFORMS:
        return []
    return [
        problem(
            f"fleet_versions.{name}",
            f"has no version for {platform}, which this host is",
            "a version for each platform of the fleet's hosts",
            f"add {platform} to fleet_versions.{name} in fleet.yml",
        )
        for name, pins in versions.items()
        if platform not in pins
    ]


def check_public(name: str, answers: set[str], private: list[str] | None) -> Problems:
    """Whether monitors will take a mirror's addresses. Nobody asks that of other hosts (null)."""
    networks = [ipaddress.ip_network(one) for one in private or ()]
    refused = [
        one
        for one in map(ipaddress.ip_address, sorted(answers))
        if not one.is_global and not any(one in network for network in networks)
    ]
    if private is None or not refused:
        return []
    around = ipaddress.ip_network((refused[0], 64 if refused[0].version == 6 else 24), strict=False)
    return [
        problem(
            f"name {name}",
            f"resolves to {', '.join(map(str, refused))}, which is no public address, and monitors refuse it",
            f"public addresses, and those in private_networks of fleet.yml ({', '.join(private) or 'none so far'})",
            f"correct DNS; for a fleet within a network of its own say private_networks: [{around}]",
        )
    ]


def check_names(names: list[str], own: list[str], private: list[str] | None = None) -> Problems:
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
                    "correct DNS; behind address translation, name the public addresses (mirror_address)",
                )
            )
        else:
            found += check_public(name, public, private)
    return found


def result_of(
    params: dict[str, Any], root: Path = Path("/"), knows: Callable[[str], bool] = kernel_knows
) -> dict[str, Any]:
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
            *check_families(proc, params["families"], bool(params["private_networks"]), knows),
            *check_names(params["names"], [*addresses, *params["addresses"]], params["private_networks"]),
            *check_files(params["files"]),
            *check_pins(platform, params["packages"] | params["programs"]),
            *check_packages(platform, params["packages"]),
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
    "families": {"type": "list", "elements": "str", "choices": list(FAMILIES), "default": []},
    "private_networks": {"type": "list", "elements": "str"},
    "files": {"type": "dict", "default": {}},
    "packages": {"type": "dict", "default": {}},
    "programs": {"type": "dict", "default": {}},
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
