"""make bench-inventory: what it costs to read a fleet, and to evaluate every wired input of every host, without hosts.

Made-up fleets, read by the real programs under the project's own ansible.cfg. Facts come from a fact cache, as from an
earlier run. The peer is Ansible itself: the same hosts as a plain list, and the same play with a constant, so the
ratio is what the wiring costs. SIZE=quick stops at 300 mirrors and takes about two minutes.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from report import FULL, ROOT, Row, medians, publish

sys.path.insert(0, str(ROOT))

from plugin_utils import wiring

SIZES = (100, 300, 1_000) if FULL else (100, 300)
ROUNDS = int(os.environ.get("ROUNDS", "3" if FULL else "2"))
CHILDREN = 10  # of a tier-1 that feeds others
SECONDS, MEGABYTES, BEFORE_FIRST_TASK, GROWTH = 60.0, 500.0, 3.0, 1.3
FIRST_TASK = "the first task ran"
GROUPS = {  # by the kind of host, of which each is in one play
    "mirrors": ("fleet", "mirrors"),
    "origins": ("fleet", "origins"),
    "redirectors": ("fleet", "sites", "redirectors"),
    "monitors": ("fleet", "sites", "monitors"),
}
UPSTREAM = {"index_url": "https://index.example.net/simple/"}
PROJECTS = ["attrs", "certifi", "click", "idna", "numpy", "packaging", "requests", "rich", "six", "urllib3"]
PLACES = [
    ("OC", "NZ", "Auckland", -36.85, 174.76), ("AF", "KE", "Nairobi", -1.29, 36.82),
    ("EU", "DE", "Köln", 50.94, 6.96), ("SA", "BR", "São Paulo", -23.55, -46.63),
    ("AS", "JP", "Osaka", 34.69, 135.5), ("NA", "CA", "Montréal", 45.5, -73.57),
]  # fmt: skip
TLS: list[dict[str, Any]] = [
    {"tls_mode": "acme", "tls_acme_directory": "https://acme.example.net/directory"},
    {
        "tls_mode": "provided",
        "tls_provided_certificate": "/etc/ssl/mirror/fullchain.pem",
        "tls_provided_key": "/etc/ssl/mirror/privkey.pem",
    },
    {"tls_mode": "private_ca"},
]


# ---------------------------------------------------------------------------------------------------- made-up fleets
def fleet_file() -> dict[str, Any]:
    return {
        "plugin": "fleet",
        "fleet_name": "Large fleet",
        "fleet_coordinator": {
            "name": "Ada Example",
            "email": "ada@example.org",
            "url": "https://example.org/",
        },
        "fleet_agreement_version": "2026-11",
        "fleet_staleness_limit": 86400,
        "fleet_versions": {
            "mirrorfleet": "0.1.0",
            "bandersnatch": {"debian-13": "8.2.0", "debian-12": "6.8.0"},
            "nginx": {"debian-13": "1.26.*", "debian-12": "1.22.*"},
        },
        "fleet_selection": {"projects": PROJECTS},
        "fleet_gate_project": "six",
        "fleet_mail_relay": {"address": "relay.example.org:587", "from": "fleet@example.org"},
        "origins": {
            "origin.example.org": {
                "origin_url": "https://origin.example.org",
                "origin_address": ["198.51.100.1", "2001:db8:1::1"],
                "origin_projects": PROJECTS,
                **TLS[0],
            }
        },
        **{
            f"{kind}s": {
                f"{kind}{at}.example.org": {
                    f"{kind}_url": f"https://{kind}{at}.example.org",
                    f"{kind}_address": [f"198.51.100.{at}{place}", f"2001:db8:1::{at}:{place}"],
                    **TLS[0],
                }
                for at in (1, 2)
            }
            for place, kind in enumerate(("redirector", "monitor"), 2)
        },
    }


def name_of(at: int) -> str:
    return f"mirror{at:04d}.example.org"


def record(at: int, mirrors: int) -> dict[str, Any]:
    """Two tier-1s, two tier-2s and a cache in turn."""
    continent, country, city, latitude, longitude = PLACES[at % len(PLACES)]
    short, cell = name_of(at), f"{at // 250}.{at % 250}"
    found: dict[str, Any] = {
        "mirror_mode": ("bandersnatch", "rsync", "bandersnatch", "rsync", "cache")[at % 5],
        "mirror_url": [f"https://{short}", f"https://pypi{at}.example.net"] if at % 7 == 0 else f"https://{short}",
        "mirror_address": [f"203.0.{cell}", f"2001:db8:2::{at:x}"],
        "mirror_location": {
            "continent": continent, "country": country, "city": city, "latitude": latitude, "longitude": longitude
        },
        "mirror_networks": [f"10.{cell}.0/24", f"2001:db8:{at + 16:x}::/48", f"AS{64512 + at}"],
        "mirror_bandwidth": (100, 1000, 10000)[at % 3],
        "mirror_address_families": ["ipv4", "ipv6"],
        "mirror_operator": {"name": f"Operator {at}", "email": f"noc@m{at}.example.org", "url": f"https://m{at}.example.org/"},
        "mirror_agreement": {"version": "2026-11", "accepted_by": f"Volunteer {at}", "accepted_on": "2026-11-20"},
        **TLS[at % len(TLS)],
    }  # fmt: skip
    if found["mirror_mode"] == "rsync":
        place = at // 5 * 2 + at % 5 // 2  # among the tier-2s
        feeders = max(mirrors * 2 // 5 // CHILDREN, 1)
        found["mirror_upstream"] = name_of(place % feeders * 5)
    elif found["mirror_mode"] == "bandersnatch" and at % 5 == 0:
        found["mirror_upstream"] = "origin.example.org"
    elif found["mirror_mode"] == "bandersnatch":
        found["mirror_selection"] = {"projects": PROJECTS[::-1], "platforms_excluded": ["windows", "macos"]}
    return found


def facts(at: int) -> dict[str, Any]:
    """What a gathering of the least leaves in the cache, as far as it matters here."""
    release = "12" if at % 4 == 3 else "13"
    return {
        "ansible_distribution": "Debian",
        "ansible_distribution_major_version": release,
        "ansible_distribution_release": {"12": "bookworm", "13": "trixie"}[release],
        "ansible_os_family": "Debian",
        "ansible_architecture": "x86_64",
        "ansible_pkg_mgr": "apt",
        "ansible_service_mgr": "systemd",
        "ansible_dns": {"nameservers": ["127.0.0.53", "198.51.100.53"], "search": ["example.org"]},
    }


def every(keys: Iterable[str]) -> str:
    """All of them in one template, as Ansible compiles each template anew for each host: only the wiring's count."""
    return f"{{{{ {{{', '.join(f'{key!r}: {key}' for key in dict.fromkeys(keys))}}} }}}}"


class Plain(yaml.SafeDumper):
    """Without anchors: the plugin takes none."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def remember(known: dict[str, Any]) -> None:
    """Writes the fact cache as Ansible does. In a process of its own: a child's memory counts from its parent's."""
    from ansible.plugins.loader import cache_loader  # noqa: PLC0415

    cache = cache_loader.get("jsonfile")
    for name, found in known.items():
        cache.set(name, found)


# -------------------------------------------------------------------------------------------------------- measuring
@dataclass
class Run:
    """Of one program and what it started: seconds, of CPU too, megabytes of the largest process, seconds until a line
    that was waited for."""

    seconds: float
    cpu: float
    megabytes: float
    until: float
    said: str


def run(command: list[str], environment: dict[str, str], wait_for: str = "", fails: bool = False) -> Run:
    """Ends the benchmark when the command does not end as it should."""
    begun, until, said = time.perf_counter(), 0.0, []
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if not until and wait_for and wait_for in line:
            until = time.perf_counter() - begun
        said.append(line)
    # What was used is of the process and of all that it waited for; of memory, the most that one of them had.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    done = Run(time.perf_counter() - begun, cpu, used.ru_maxrss / 1024, until, "".join(said))
    if (process.returncode != 0) != fails or (wait_for and not until):
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}:\n{done.said[-4000:]}")
    return done


class Inventory:
    """An inventory of so many mirrors in a folder, and the programs that read it."""

    def __init__(self, folder: Path, mirrors: int) -> None:
        self.folder, self.mirrors, self.hosts = folder, mirrors, mirrors + 5
        self.one = name_of(mirrors // 2 // 5 * 5 + 1)  # a tier-2
        self.plays: list[Run] = []
        self.source = folder / "fleet.yml"
        # What the shell sets for Ansible is not what is measured.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        self.environment = kept | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(folder / "facts"),
            # As beside the project's own playbooks.
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "playbooks/callback_plugins"),
        }
        self.extra = ["-e", json.dumps({"__fleet_upstream": UPSTREAM})]

    def write(self) -> None:
        for name in ("mirrors", "group_vars", "facts", "private/authority"):
            (self.folder / name).mkdir(parents=True)
        fleet = fleet_file()
        self._dump("fleet.yml", fleet)
        for at in range(self.mirrors):
            self._dump(f"mirrors/{name_of(at)}.yml", record(at, self.mirrors))
        self._dump(
            "group_vars/fleet.yml",
            {"ansible_user": "fleet", "fleet_private_dir": str(self.folder / "private")},
        )
        (self.folder / "private/authority/ca.pem").touch()
        known = {name: facts(at) for at, name in enumerate(self._names(fleet))}
        subprocess.run(
            [sys.executable, __file__, "remember"],
            env=self.environment,
            input=json.dumps(known),
            text=True,
            check=True,
        )
        packages = wiring.package_templates()
        self._write_plays(
            {
                kind: every(
                    key for group in groups for key in (*wiring.TEMPLATES[group], *packages.get(group, ()))
                )
                for kind, groups in GROUPS.items()
            }
        )

    def _names(self, fleet: dict[str, Any]) -> list[str]:
        sites = [name for section in ("origins", "redirectors", "monitors") for name in fleet[section]]
        return [*map(name_of, range(self.mirrors)), *sites]

    def _dump(self, name: str, values: object) -> None:
        text = yaml.dump(values, Dumper=Plain, sort_keys=False, allow_unicode=True)
        (self.folder / name).write_text(text)

    def _write_plays(self, arguments: dict[str, str]) -> None:
        """By group, what one task is given. It says nothing of it, so that showing it is not measured."""

        def play(group: str, argument: str, verbosity: int) -> dict[str, Any]:
            task = {"name": "Evaluate", "ansible.builtin.debug": {"msg": argument, "verbosity": verbosity}}
            return {"name": group, "hosts": group, "gather_facts": False, "tasks": [task]}

        self._dump("inputs.yml", [play(group, argument, 5) for group, argument in arguments.items()])
        self._dump("first.yml", [play("all", FIRST_TASK, 0)])

    def play(self) -> float:
        """Every host evaluates its argument; none may be left out, none may fail."""
        done = run(
            ["ansible-playbook", "-i", str(self.source), *self.extra, str(self.folder / "inputs.yml")],
            self.environment,
        )
        well = len(re.findall(r"^\S+ +: ok=0 .*unreachable=0 +failed=0 +skipped=1 ", done.said, re.MULTILINE))
        if well != self.hosts:
            sys.exit(f"{well} of {self.hosts} hosts evaluated their inputs:\n{done.said[-4000:]}")
        self.plays.append(done)
        return done.seconds

    def first_task(self) -> float:
        """Seconds from the start of a run limited to one host until its first task has said something."""
        command = ["ansible-playbook", "-i", str(self.source), *self.extra, "--limit", self.one]
        return run([*command, str(self.folder / "first.yml")], self.environment, FIRST_TASK).until

    def asked(self, wait_for: str, *what: str) -> Callable[[], float]:
        """Seconds of ansible-inventory, which has to say `wait_for`."""
        return lambda: (
            run(["ansible-inventory", "-i", str(self.source), *what], self.environment, wait_for).seconds
        )

    def fails_without_upstream(self) -> None:
        """An input that cannot be evaluated has to end the benchmark, or its seconds mean nothing."""
        command = [
            "ansible-playbook",
            "-i",
            str(self.source),
            "--limit",
            name_of(4),
            str(self.folder / "inputs.yml"),
        ]
        if "no upstream was discovered" not in (said := run(command, self.environment, fails=True).said):
            sys.exit(f"The play failed otherwise than expected:\n{said[-4000:]}")


class Bare(Inventory):
    """The same hosts and facts, nothing else."""

    def __init__(self, ours: Inventory) -> None:
        super().__init__(ours.folder / "bare", ours.mirrors)
        self.ours = ours
        self.source = self.folder / "hosts"
        self.extra = []
        self.environment |= {
            "ANSIBLE_INVENTORY_ENABLED": "ini",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(ours.folder / "facts"),
        }
        del self.environment["ANSIBLE_CALLBACK_PLUGINS"]  # which would refuse such an inventory

    def write(self) -> None:
        self.folder.mkdir()
        self.source.write_text("".join(f"{name}\n" for name in self._names(fleet_file())))
        self._write_plays({"all": "constant"})


def measure(folder: Path) -> dict[int, list[list[float]]]:
    """By size: of each thing measured, ours and the peer's. All of a round are measured in turn."""
    pairs = []
    for mirrors in SIZES:
        ours = Inventory(folder / str(mirrors), mirrors)
        pairs.append((ours, Bare(ours)))
        for one in pairs[-1]:
            one.write()
        ours.fails_without_upstream()
    actions = [
        action
        for pair in pairs
        for one in pair
        for action in (
            one.play,
            one.first_task,
            one.asked(one.one, "--graph"),
            one.asked("ansible_pkg_mgr", "--host", one.one),
        )
    ]
    taken = iter(medians(ROUNDS, *actions))
    found = {}
    for pair in pairs:
        columns = [
            [
                *(next(taken) for _ in range(4)),
                statistics.median(play.cpu for play in one.plays),
                statistics.median(play.megabytes for play in one.plays),
            ]
            for one in pair
        ]
        found[pair[0].mirrors] = [list(both) for both in zip(*columns, strict=True)]
    return found


def main() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # as the goals have it
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name))
    core = version("ansible-core")
    rows: list[Row] = []
    for mirrors, (inputs, first, graph, host, cpu, memory) in found.items():
        for what, (ours, peer), unit in (
            ("all inputs of {}", inputs, "s"),
            ("CPU, all inputs of {}", cpu, "s"),
            ("largest process, all inputs of {}", memory, "MB"),
            ("first task for one of {}", first, "s"),
            ("--graph of {}", graph, "s"),
            ("--host for one of {}", host, "s"),
        ):
            rows.append(
                Row(what.format(f"{mirrors:,} mirrors"), ours, peer, "ansible-core, bare", core, unit)
            )
        if mirrors == 1_000:
            for what, ours, limit, unit in (
                ("1,000 mirrors on two cores", inputs[0], SECONDS, "s"),
                ("1,000 mirrors, largest process", memory[0], MEGABYTES, "MB"),
                ("--limit to one of 1,000, until its first task", first[0], BEFORE_FIRST_TASK, "s"),
            ):
                rows.append(Row(what, ours, limit, "the design's limit, ansible-core", core, unit, 1))
    few, many = SIZES[0], SIZES[-1]
    ours, peer = (1000 * found[mirrors][0][0] / mirrors for mirrors in (many, few))
    what = f"a mirror's share at {many:,} beside at {few:,}"
    rows.append(Row(what, ours, peer, f"itself at {few:,}, ansible-core", core, "ms", GROWTH))
    publish("inventory", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["remember"]:
        remember(json.load(sys.stdin))
    else:
        main()
