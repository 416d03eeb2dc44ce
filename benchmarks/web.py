"""make bench-web: a mirror's web server beside bare nginx and beside other index servers, all on one host.

The host is a Debian 13 of the sandbox, provisioned by the role web_server. What loads it runs on it too, so that
nothing but the host is measured. SIZE=quick takes about two minutes, SIZE=full is what documents quote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from report import FULL, ROOT, Row, publish, say

ROUNDS, SECONDS = (7, 4) if FULL else (3, 1)
SCENARIO = "bench_web"
ENVIRONMENT = os.environ | {
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "MOLECULE_SCENARIO_NAME": SCENARIO,
}
INVENTORY = ROOT / "molecule/inventory.py"
GOAL = 0.95


def run(what: str, *command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        sys.exit(f"bench-web: {what} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def play(path: Path) -> None:
    say(f"{path.relative_to(ROOT)}")
    run(str(path), sys.executable, "-m", "ansible", "playbook", "--inventory", INVENTORY, path)


def variables() -> dict[str, Any]:
    listing: dict[str, Any] = json.loads(run("the inventory", INVENTORY, "--list"))
    everywhere: dict[str, Any] = listing["all"]["vars"]
    hosts: dict[str, Any] = listing["hosts"]["vars"]
    return everywhere | hosts


def fetch_peers(folder: Path) -> None:
    """For the host's Python, by the pip of the control node."""
    packages = folder / "peers"
    if not (packages / "pypiserver").is_dir():
        say("the peers' packages")
        platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in ("2_28", "2_17")]
        run(
            "pip", sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--target", packages, "--python-version", "3.13", *platforms, "--platform=manylinux2014_x86_64",
            "--only-binary=:all:", "--no-deps", "--require-hashes", "-r", ROOT / "requirements/peers.txt",
        )  # fmt: skip
    with tarfile.open(folder / "peers.tar", "w") as archive:
        archive.add(packages, ".")


def measure(where: dict[str, Any]) -> dict[str, Any]:
    say(f"load, {ROUNDS} rounds of {SECONDS} s")
    ssh = ["ssh", *where["ansible_ssh_common_args"].split(), "-i", where["ansible_ssh_private_key_file"]]
    address = f"{where['ansible_user']}@{where['sandbox_ipv4_prefix']}.13"
    said = run("the load", *ssh, address, f"sudo python3 /opt/web_load.py {ROUNDS} {SECONDS}", timeout=1800)
    found: dict[str, Any] = json.loads(said)
    return found


def rows(found: dict[str, Any]) -> list[Row]:
    version, memory = found["nginx"], found["memory"]
    result = []
    for what, seen in found["against bare"].items():
        ours, bare = seen["ours"], seen["bare"]
        result += [
            Row(
                what, ours["requests"], bare["requests"], "bare nginx", version, "requests/s", GOAL, "higher"
            ),
            Row(f"{what}, p99", ours["p99"], bare["p99"], "bare nginx", version, "ms"),
            Row(f"{what}, CPU", ours["cpu"], bare["cpu"], "bare nginx", version, "us/request"),
        ]
    result.append(Row("memory of all processes", memory["ours"], memory["bare"], "bare nginx", version, "MB"))
    for name, peer in found["peers"].items():
        for what in ("small page", "1 MB page", "300 kB wheel"):
            ours = found["against bare"][f"{what}, keep-alive"]["ours"]
            for figure, unit, better in (("requests", "requests/s", "higher"), ("p99", "ms", "lower")):
                label = what if figure == "requests" else f"{what}, p99"
                theirs, shown = peer[what][figure], f"{name} (plain HTTP)"
                result.append(Row(label, ours[figure], theirs, shown, peer["version"], unit, None, better))
        result.append(
            Row("memory of all processes", memory["ours"], peer["memory"], name, peer["version"], "MB")
        )
    return result


def main() -> None:
    where = variables()
    folder = Path(where["sandbox_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    fetch_peers(folder)
    try:
        play(ROOT / "molecule/create.yml")
        play(ROOT / "molecule/bench_web/provision.yml")
        found = measure(where)
    finally:
        if not os.environ.get("KEEP"):
            play(ROOT / "molecule/destroy.yml")
    publish("web", rows(found))


if __name__ == "__main__":
    main()
