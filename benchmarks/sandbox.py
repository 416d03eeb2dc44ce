"""What benchmarks on hosts of the sandbox share: a scenario's hosts, commands on them, the peers' packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from report import ROOT, say

INVENTORY = ROOT / "molecule/inventory.py"


class Sandbox:
    """The hosts of molecule/SCENARIO, for the benchmark that is called `topic` in messages."""

    def __init__(self, topic: str, scenario: str) -> None:
        self.topic, self.scenario = topic, scenario
        self.environment = os.environ | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_INVENTORY_ENABLED": "script",
            "MOLECULE_SCENARIO_NAME": scenario,
        }
        self.inventory: dict[str, Any] = json.loads(self.run("the inventory", INVENTORY, "--list"))
        self.folder = Path(self.inventory["all"]["vars"]["sandbox_dir"])
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, what: str, *command: str | Path, timeout: float | None = None) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if done.returncode:
            sys.exit(
                f"{self.topic}: {what} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout

    def play(self, path: Path) -> None:
        say(f"{path.relative_to(ROOT)}")
        self.run(str(path), sys.executable, "-m", "ansible", "playbook", "--inventory", INVENTORY, path)

    @contextmanager
    def hosts(self) -> Iterator[None]:
        """The scenario's hosts, provisioned; removed at the end unless KEEP is set."""
        try:
            self.play(ROOT / "molecule/create.yml")
            self.play(ROOT / "molecule" / self.scenario / "provision.yml")
            yield
        finally:
            if not os.environ.get("KEEP"):
                self.play(ROOT / "molecule/destroy.yml")

    def ssh(self, what: str, host: str, command: str, timeout: float = 1800) -> str:
        where = self.inventory["hosts"]["vars"]
        address = f"{where['ansible_user']}@{self.inventory['_meta']['hostvars'][host]['ansible_host']}"
        options = [*where["ansible_ssh_common_args"].split(), "-i", where["ansible_ssh_private_key_file"]]
        return self.run(what, "ssh", *options, address, command, timeout=timeout)

    def fetch_peers(self) -> None:
        """For the hosts' Python, by the pip of the control node."""
        packages = self.folder / "peers"
        if not (packages / "pypiserver").is_dir():
            say("the peers' packages")
            platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in ("2_28", "2_17")]
            self.run(
                "pip", sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--target", packages, "--python-version", "3.13", *platforms, "--platform=manylinux2014_x86_64",
                "--only-binary=:all:", "--no-deps", "--require-hashes", "-r", ROOT / "requirements/peers.txt",
            )  # fmt: skip
        with tarfile.open(self.folder / "peers.tar", "w") as archive:
            archive.add(packages, ".")
