#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Report everything that would keep a host from becoming part of the fleet.

Documented in host_preflight.yml beside it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
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
UDP_UNCONNECTED = "07"
# Answers to what the host itself asks for come in whatever a firewall opens: DHCP, its second port for IPv6.
UDP_CLIENTS = {68, 546}
OUR_TABLE = "inet mirrorfleet"
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
APT_SECONDS = 120  # until apt has to have answered
COUNTING_SECONDS = 300

Problems = list[dict[str, str]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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


def listeners(proc: Path, protocol: str = "tcp", beyond_loopback: bool = False) -> dict[int, set[str]]:
    """By port, the socket inodes that listen on it."""
    found: dict[int, set[str]] = {}
    state = TCP_LISTEN if protocol == "tcp" else UDP_UNCONNECTED
    for name in (protocol, f"{protocol}6"):
        table = proc / "net" / name
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            address, _, port = fields[1].rpartition(":")
            if fields[3] == state and not (beyond_loopback and is_loopback(address)):
                found.setdefault(int(port, 16), set()).add(fields[9])
    return found


def is_loopback(address: str) -> bool:
    """An address as the kernel's tables have it: words of 32 bits, each in the machine's byte order."""
    words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
    found = ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))
    return found.is_loopback or bool((mapped := getattr(found, "ipv4_mapped", None)) and mapped.is_loopback)


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


def came_in_by(proc: Path) -> set[int]:
    """The port at which this connection reached the host's SSH server, as the server told the login (sshd(8))."""
    process = os.getpid()
    while process > 1:
        try:
            for entry in (proc / str(process) / "environ").read_bytes().split(b"\0"):
                name, _, value = entry.partition(b"=")
                if name == b"SSH_CONNECTION" and value.split()[-1:]:
                    return {int(value.split()[-1])}
            status = (proc / str(process) / "stat").read_text()
            process = int(status.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return set()


def ssh_ports(proc: Path) -> list[int]:
    """Where SSH comes in, wherever the inventory believes it does."""
    taken = listeners(proc, beyond_loopback=True)
    by_sshd = {port for port, inodes in taken.items() if {"sshd", "dropbear"} & owners(proc, inodes).keys()}
    return sorted(by_sshd | came_in_by(proc))


def check_others(proc: Path, opened: list[str], ssh: list[int], kind: str, decided: bool) -> Problems:
    """What the host offers beside the fleet's services, and the fleet's firewall would close."""
    if decided:
        return []
    first, last = map(int, (proc / "sys/net/ipv4/ip_local_port_range").read_text().split())
    closed: dict[str, str] = {}
    for protocol, spared in (("tcp", set(ssh)), ("udp", UDP_CLIENTS)):
        for port, inodes in sorted(listeners(proc, protocol, beyond_loopback=True).items()):
            entry = str(port) if protocol == "tcp" else f"{port}/udp"
            # A port that the kernel chose is a client's; WireGuard's is the kernel's own, without inode.
            asks = protocol == "udp" and first <= port <= last and "0" not in inodes
            if entry not in opened and port not in spared and not asks:
                holders = owners(proc, inodes).items()
                closed[entry] = ", ".join(f"{name}, process {pid}" for name, pid in sorted(holders))
    if not closed:
        return []
    named = ", ".join(f"{entry} ({by})" if by else entry for entry, by in closed.items())
    kept = ", ".join(f'"{entry}"' if "/" in entry else entry for entry in closed)
    return [
        problem(
            f"{kind}_open_ports",
            f"does not say what becomes of ports that the host offers and the fleet's firewall would close: {named}",
            f"{kind}_open_ports: [{kept}] leaves them open, {kind}_other_ports: close closes the others",
            "ask the host's operator, then write one of them, or some ports and the other, into its record",
        )
    ]


def said(*command: str) -> str:
    """What a program of the host's says; nothing where it is not there or fails."""
    done = run(*command)
    return "" if done.returncode else done.stdout


def closing_by_nft(ruleset: str) -> tuple[list[str], bool]:
    """The chains of others that drop whatever they do not name, and whether our own table is loaded.

    One that only drops what it names, as fail2ban's, is no such chain.
    """
    found: dict[str, bool] = {}
    ours = False
    for entry in json.loads(ruleset or "{}").get("nftables", []):
        (kind, item), *_ = entry.items()
        if kind == "table":
            ours = ours or f"{item['family']} {item['name']}" == OUR_TABLE
        if kind == "chain" and item.get("hook") == "input" and item.get("type") == "filter":
            table = f"{item['family']} {item['table']}"
            if table != OUR_TABLE:
                found[f"{table} {item['name']}"] = item.get("policy") == "drop"
        if kind == "rule":
            chain = f"{item['family']} {item['table']} {item['chain']}"
            # iptables-nft's REJECT is a target of xtables.
            words = {
                part[word]["name"].lower() if word == "xt" else word
                for part in item.get("expr", [])
                for word in part
            }
            if chain in found and words - {"counter", "log", "comment"} in ({"drop"}, {"reject"}):
                found[chain] = True
    return [chain for chain, closes in found.items() if closes], ours


def closing_by_iptables(saved: str, family: str) -> list[str]:
    """The same of iptables-save(8), for a host that has iptables and no nft."""
    last = [line for line in saved.splitlines() if line.startswith("-A INPUT")][-1:]
    ends = any(re.fullmatch(r"-A INPUT -j (DROP|REJECT.*)", line.strip()) for line in last)
    return [f"{family} filter INPUT"] if ends or re.search(r"^:INPUT DROP", saved, re.MULTILINE) else []


def find_firewalls() -> tuple[list[str], bool]:
    if ruleset := said("nft", "-j", "list", "ruleset"):
        return closing_by_nft(ruleset)
    return [
        *closing_by_iptables(said("iptables-save", "-t", "filter"), "ip"),
        *closing_by_iptables(said("ip6tables-save", "-t", "filter"), "ip6"),
    ], False


def check_firewalls(chains: list[str], kind: str, decided: bool) -> Problems:
    if decided or not chains:
        return []
    return [
        problem(
            f"{kind}_other_firewall",
            f"is missing, and the host has a firewall of its own that drops what it does not name: {', '.join(chains)}",
            "keep or replace",
            "ask the host's operator: keep, where they open ports 80 and 443 in it, and what monitors and other "
            "mirrors need; replace, where the fleet's takes its place until retire.yml",
        )
    ]


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
            env=os.environ | {"LC_ALL": "C.UTF-8", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
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
    # Those that are named already among them, for it is what shall stand there.
    around = {
        str(ipaddress.ip_network((one, 64 if one.version == 6 else 24), strict=False)) for one in refused
    }
    wanted = ", ".join(f'"{one}"' if ":" in one else one for one in [*private, *sorted(around)])
    return [
        problem(
            f"name {name}",
            f"resolves to {', '.join(map(str, refused))}, which is no public address, and monitors refuse it",
            f"public addresses, and those in private_networks of fleet.yml ({', '.join(private) or 'none so far'})",
            f"correct DNS; for a fleet within a network of its own say private_networks: [{wanted}]",
        )
    ]


def resolve(name: str) -> set[Address]:
    """What a name resolves to here, an address to itself; OSError or UnicodeError where it does not."""
    return {
        ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in socket.getaddrinfo(name, 443)
    }


def translated(addresses: list[str]) -> list[str]:
    """Addresses that others see the host by, behind address translation, in place of their names."""
    found: set[str] = set()
    for one in addresses:
        with contextlib.suppress(OSError, UnicodeError):
            found |= set(map(str, resolve(one)))
    return sorted(found)


def check_names(
    names: list[str],
    own: list[str],
    private: list[str] | None = None,
    shared: dict[str, list[str]] | None = None,
) -> Problems:
    """By a name that other hosts answer for as well, `shared` has these."""
    found = []
    for name in names:
        try:
            answers = resolve(name)
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
        strange = public - set(own)
        for other in (shared or {}).get(name, []) if strange else []:
            with contextlib.suppress(OSError, UnicodeError):
                strange -= set(map(str, resolve(other)))
        if strange:
            found.append(
                problem(
                    f"name {name}",
                    f"resolves to {', '.join(sorted(strange))}, which is not this host",
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
    ssh = ssh_ports(proc)
    record = params["record"]
    chains, ours = find_firewalls() if record else ([], True)
    return {
        "platform": platform,
        "python": ".".join(map(str, sys.version_info[:3])),
        "clock_offset": offset,
        "addresses": addresses,
        "ssh_ports": ssh,
        "closing_chains": chains,
        "problems": [
            *check_platform(platform),
            *check_python(sys.version_info[:3]),
            *check_systemd(root),
            *check_clock(offset),
            *check_disk(params["disk"]),
            *check_ports(proc, params["ports"], params["ours"]),
            # Once the fleet's firewall is there, nothing is closed any more by a run.
            *check_others(
                proc, params["opened"], ssh, record, decided=ours or params["other_ports"] == "close"
            ),
            *check_firewalls(chains, record, decided=bool(params["other_firewall"])),
            *check_families(proc, params["families"], bool(params["private_networks"]), knows),
            *check_names(
                params["names"],
                [*addresses, *translated(params["addresses"])],
                params["private_networks"],
                params["shared"],
            ),
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
    "shared": {"type": "dict", "default": {}},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "record": {"type": "str", "default": ""},
    "opened": {"type": "list", "elements": "str", "default": []},
    "other_ports": {"type": "str", "default": ""},
    "other_firewall": {"type": "str", "default": ""},
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
