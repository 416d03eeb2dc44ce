"""Every problem that preflight knows of a host, told by the playbook, of hosts that have it.

They are namespaces of this machine: each host's Python runs within one, with its own files, network and clock.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.test_mistakes import ALL, HOUSE, added, ansible, fleet

LISTENER = """
import socket, time
held = [socket.create_server(("0.0.0.0", port)) for port in (80, 8080)]
time.sleep(300)
"""
# What a host has of its own is made before its Python runs, and ends with it.
INTERPRETER = """#!/bin/sh
exec unshare --user --map-root-user --mount --net --kill-child --pid --fork --mount-proc sh -c '
PATH=$PATH:/usr/sbin:/sbin; exec 3>&1 >/dev/null 2>&1
ip link set lo up
{made}
exec >&3 2>/dev/null 3>&-
{python} "$@"' sh "$@"
"""
LOCAL = """
ansible_connection: local
ansible_become: false
"""


@dataclass
class Made:
    """A host, by the shell commands that make it."""

    name: str
    folder: Path
    commands: str = ""
    environment: str = ""

    def file(self, path: str, text: str) -> Made:
        ours = self.folder / f"{self.name}-{path.replace('/', '-')}"
        ours.write_text(text)
        self.commands += f"mount --bind {ours} {path}\n"
        return self

    def into(self, fleet_folder: Path) -> None:
        interpreter = self.folder / f"python-{self.name}"
        python = f"env {self.environment} {sys.executable}"
        interpreter.write_text(INTERPRETER.format(made=self.commands, python=python))
        interpreter.chmod(0o755)
        added(f"host_vars/{self.name}.yml", f"ansible_python_interpreter: {interpreter}\n").into(fleet_folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(HOUSE / "inventory/example", tmp_path / "fleet")
    shutil.rmtree(tmp_path / "fleet/group_vars")
    added(ALL, LOCAL).into(tmp_path / "fleet")
    fleet("  nginx: .*", '  nginx: {debian-13: "99.1.*"}').into(tmp_path / "fleet")
    return tmp_path / "fleet"


def debian(version: int) -> str:
    return f"ID=debian\nVERSION_ID={version}\n"


AKL, NBO, RED = "akl1.example.org", "nbo1.example.org", "redirector.example.org"
TOLD = {
    "platform": f"{RED}: platform is ubuntu-24. Allowed: debian-12, debian-13.",
    "systemd": f"{NBO}: systemd is not running. Allowed: a host booted with systemd.",
    "clock": f"{RED}: clock is 10[0-9][0-9] seconds ahead of the control node's. Allowed: at most 30 seconds off.",
    "disk": f"{NBO}: disk at /srv/mirror has 10",
    "port": f"{NBO}: port 80 is taken by python",
    "open_ports": f"{NBO}: mirror_open_ports does not say what becomes of ports that the host offers",
    "other_firewall": f"{NBO}: mirror_other_firewall is missing, and the host has a firewall of its own that drops",
    "families": f"{NBO}: mirror_address_families has ipv4, but it has no IPv4 address that others can reach",
    "no way out": f"{AKL}: mirror_address_families has ipv4, but it has no default route for IPv4",
    "name that does not resolve": f"{NBO}: name nbo1.example.org does not resolve",
    "name that leads elsewhere": f"{RED}: name mirrors.example.org resolves to 203.0.113.7, which is not this host",
    "name that is not public": f"{AKL}: name {AKL} resolves to 10.1.2.3, which is no public address",
    "file": f"{NBO}: tls_provided_key is /etc/ssl/mirror/privkey.pem, which cannot be read",
    "pin": f"{AKL}: fleet_versions.nginx has no version for debian-12, which this host is",
    "upstream": f"{AKL}: upstream the name .* does not resolve",
    "package": f"{NBO}: fleet_versions.nginx.debian-13 is '99.1.[*]', which no archive of this host has",
}
# Told by a Python that is older than any that can be installed here: test_old_pythons.
NOT_HERE = 1


def test_none_is_missing() -> None:
    module = (HOUSE / "library/host_preflight.py").read_text()
    calls = len(re.findall(r"(?<!def )\bproblem\(", module))
    # Of families one call tells why in its own words; an upstream is another module's to look at.
    assert calls == len(TOLD) - len({"no way out", "upstream"}) + NOT_HERE


@pytest.mark.slow
def test_every_problem_of_a_host_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "listen.py").write_text(LISTENER)
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead/sitecustomize.py").write_text(
        "import time\nreally = time.time\ntime.time = lambda: really() + 1000\n"
    )
    nbo = Made(NBO, tmp_path).file("/etc/os-release", debian(13))
    nbo.commands += f"""
mount -t tmpfs -o size=10m tmpfs /srv
mount -t tmpfs tmpfs /run
{sys.executable} {tmp_path}/listen.py &
nft add table inet filter
nft add chain inet filter input "{{ type filter hook input priority 0; policy drop; }}"
until ss -Htln | grep -q :8080; do sleep 0.1; done
"""
    akl = Made(AKL, tmp_path).file("/etc/os-release", debian(12))
    akl.file("/etc/hosts", f"127.0.0.1 localhost\n10.1.2.3 {AKL}\n")
    akl.commands += "ip address add 10.1.2.3/24 dev lo\n"
    red = Made(RED, tmp_path, environment=f"PYTHONPATH={tmp_path}/ahead")
    red.file("/etc/os-release", "ID=ubuntu\nVERSION_ID=24.04\n")
    red.file("/etc/hosts", "127.0.0.1 localhost\n203.0.113.7 mirrors.example.org\n")
    for host in (nbo, akl, red):
        host.into(folder)
    code, said = ansible("preflight.yml", folder / "fleet.yml")
    (message,) = re.findall(r"^ +Nothing was changed. To be mended first:\n(.*?)^\S", said, re.M | re.S)
    told = [line.strip() for line in message.splitlines() if line.strip()]
    assert code != 0 and len(told) == len(set(told))
    for kind, words in TOLD.items():
        assert sum(bool(re.match(words, line)) for line in told) == 1, f"{kind}: {words}\n{said}"
    assert all(" Next: " in line for line in told)
