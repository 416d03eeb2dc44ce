#!/usr/bin/env python3
"""Inventory of the molecule scenarios: group `hosts` is a fresh Debian 13 and a fresh Debian 12 for each scenario.

Every scenario has a network of its own (its place in this list gives the number), so that several can run
side by side. A scenario that needs more hosts lists them in its `hosts.json`.
"""

import hashlib
import json
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCENARIOS = (
    "host_state",
    "host_baseline",
    "tls",
    "web_server",
    "sync_client",
    "origin",
    "monitoring_agent",
    "redirector",
    "monitoring_server",
    "tiers",
    "faults",
    "bench_web",
    "tls_acme",
    "bench_sync",
    "inventory_plugin",
    "small_roles",
    "authority",
    "document_server",
    "python_program",
    "rsync_server",
    "sandbox",
    "nginx",
    "route",
)
STANDARD_HOSTS = [
    {"name": "debian-13", "platform": "debian-13", "address": 13},
    {"name": "debian-12", "platform": "debian-12", "address": 12},
]


def inventory(scenario: str) -> dict[str, object]:
    number = 101 + SCENARIOS.index(scenario)
    name = f"molecule-{scenario.replace('_', '-')}"
    extra = HERE / scenario / "hosts.json"
    hosts = json.loads(extra.read_text()) if extra.exists() else STANDARD_HOSTS
    folder = HERE.parent / "build" / name
    # As the role sandbox has it.
    control = f"~/.ansible/cp/{hashlib.sha1(os.path.realpath(folder).encode()).hexdigest()[:8]}"
    options = (
        f"UserKnownHostsFile={folder / 'known_hosts'}",
        "IdentitiesOnly=yes",
        f"ControlPath={control}/%C",
    )
    sandbox = {
        "sandbox_name": name,
        "sandbox_dir": str(folder),
        "sandbox_ipv4_prefix": f"10.89.{number}",
        "sandbox_ipv6_prefix": f"fd00:89:{number}",
    }
    connection = {
        "ansible_user": "fleet",
        "ansible_become": True,
        "ansible_ssh_private_key_file": str(folder / "id_ed25519"),
        "ansible_ssh_common_args": " ".join(f"-o {option}" for option in options),
    }
    return {
        "all": {"vars": {**sandbox, "sandbox_hosts": hosts, "sandbox_domain": "fleet.test"}},
        "hosts": {"hosts": [h["name"] for h in hosts], "vars": connection},
        "_meta": {"hostvars": {h["name"]: {"ansible_host": f"10.89.{number}.{h['address']}"} for h in hosts}},
    }


if __name__ == "__main__":
    print(json.dumps(inventory(os.environ["MOLECULE_SCENARIO_NAME"]), indent=2))
