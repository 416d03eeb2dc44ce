#!/usr/bin/python3 -I
"""Resolves the names that this host lets in, and hands their addresses on to what needs addresses.

Run by mirrorfleet-names.timer, and by a role whose names changed. It needs Debian's python3 alone, for it comes before
our own programs. A use of names is /etc/mirrorfleet/names/USE.json, written by a role:

lists       by list its names
head, tail  what /var/lib/mirrorfleet-names/USE.conf begins and ends with
each        what is between them of every list and family that has addresses: text with $list, $family and $addresses
between     what is between two addresses
load        a command that is given this file in each run, for what a reboot or another program may have emptied
reload      a unit that is reloaded when the file changed, if it runs

Exit status: 0, or 1 when a command failed; the next run tries it again.
"""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import socket
import string
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

USES, STATE = Path("/etc/mirrorfleet/names"), Path("/var/lib/mirrorfleet-names")
METRICS = Path("/var/lib/prometheus/node-exporter")  # of the role monitoring_agent, which comes later
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
DEADLINE = 30.0  # seconds, for all names together
AT_ONCE = 32
COMMAND_SECONDS = 60
# Runs in a row through which a name that does not resolve keeps its addresses: a day of the timer's. Not counted by the
# clock, which may jump, nor while the host is off.
KEPT_RUNS = 288
MOST = 16  # addresses of one name in one family: its owner opens a port to hosts, and not to a network
UNKNOWN = {socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY}

Question = tuple[str, str]  # a name and a family
Answers = dict[Question, "list[str] | None"]
Known = dict[str, dict[str, Any]]  # by "NAME FAMILY": addresses, and runs in a row that did not find any


def usable(text: str) -> str:
    """An address that a host may come from, in its canonical form; "" of anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    nobody = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    return "" if nobody or getattr(address, "ipv4_mapped", None) or "%" in text else str(address)


def ask(name: str, family: str) -> list[str] | None:
    """Addresses of a name in a family, none if it has none; None when nobody could tell."""
    try:
        found = socket.getaddrinfo(name, None, family=FAMILIES[family], type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [] if error.errno in UNKNOWN else None
    except (OSError, UnicodeError):
        return None
    return sorted(filter(None, {usable(str(entry[4][0])) for entry in found}))[:MOST]


def resolve(questions: list[Question]) -> Answers:
    """What the host's resolver says within DEADLINE; a question at which it hangs is left behind."""
    answers: Answers = {}
    left: queue.SimpleQueue[Question] = queue.SimpleQueue()
    for question in questions:
        left.put(question)

    def work() -> None:
        while True:
            try:
                question = left.get_nowait()
            except queue.Empty:
                return
            answers[question] = ask(*question)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(questions)))]
    for worker in workers:
        worker.start()
    until = time.monotonic() + DEADLINE
    for worker in workers:
        worker.join(max(0, until - time.monotonic()))
    return answers.copy()


def remember(known: Known, names: set[str], answers: Answers) -> Known:
    """What counts from now on; of names that are in no use any longer, nothing."""
    found: Known = {}
    for name in sorted(names):
        resolves = any(answers.get((name, family)) for family in FAMILIES)
        for family in FAMILIES:
            before = known.get(f"{name} {family}", {"addresses": [], "failed": 0})
            told = answers.get((name, family))
            # A name with addresses in the other family has none in this one; one without any does not resolve.
            if told is not None and resolves:
                after = {"addresses": told, "failed": 0}
            else:
                failed = min(before["failed"] + 1, KEPT_RUNS)
                after = {"addresses": before["addresses"] if failed < KEPT_RUNS else [], "failed": failed}
            found[f"{name} {family}"] = after
            tell(name, family, before, after)
    return found


def tell(name: str, family: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """A line in the journal where something became different."""
    was, now = (" ".join(one["addresses"]) or "none" for one in (before, after))
    if was != now:
        print(f"{name}: {family} was {was}, is {now}")
    elif after["failed"] == 1 and after["addresses"]:
        print(f"{name}: {family} does not resolve; {now} counts for {KEPT_RUNS - 1} more runs at most")


def text_of(use: dict[str, Any], known: Known) -> str:
    """What is handed on. Whatever an answer or the state held, here it is an address as ipaddress writes it."""
    each, parts = string.Template(use["each"]), []
    for title, names in use["lists"].items():
        for family in FAMILIES:
            told = [one for name in names for one in known.get(f"{name} {family}", {}).get("addresses", [])]
            if found := sorted(set(filter(None, map(usable, told)))):
                addresses = use["between"].join(found)
                parts.append(each.substitute(list=title, family=family, addresses=addresses))
    return str(use["head"] + "".join(parts) + use["tail"])


def run(*command: str) -> str:
    """What went wrong, or nothing."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = " ".join(done.stderr.split())[:500]
    return f"{' '.join(command)} ended with {done.returncode}: {said}" if done.returncode else ""


def hand_on(uses: dict[str, dict[str, Any]], known: Known, taken: dict[str, str], state: Path) -> bool:
    """Writes the file of each use and has it taken, which is noted in `taken`. Whether all went well."""
    well = True
    for title, use in uses.items():
        file, unit, text = state / f"{title}.conf", use.get("reload"), text_of(use, known)
        write(file, text)
        problem = run(*use["load"], str(file)) if use.get("load") else ""
        if unit and taken.get(title) != text and not run("systemctl", "is-active", "--quiet", unit):
            problem = run("systemctl", "--no-pager", "reload", unit)
        if problem:
            print(f"{title}: {problem}. The next run tries it again.", file=sys.stderr)
            taken.pop(title, None)
            well = False
        else:
            taken[title] = text
    return well


def metrics_of(names: set[str], known: Known) -> str:
    """For node_exporter's textfile collector: by name, the runs in a row in which neither family had an address."""
    metric = "mirrorfleet_name_failed_runs"
    lines = [
        f"# HELP {metric} Runs in a row, five minutes apart, in which the name did not resolve on this host.",
        f"# TYPE {metric} gauge",
    ]
    for name in sorted(names):
        failed = min(known[f"{name} {family}"]["failed"] for family in FAMILIES)
        lines.append(f"{metric}{{name={json.dumps(name)}}} {failed}")
    return "".join(f"{line}\n" for line in lines) if names else ""


def write(path: Path, text: str) -> None:
    """In one step, and only if it differs."""
    if path.exists() and path.read_text() == text:
        return
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def read_state(path: Path) -> tuple[Known, dict[str, str]]:
    """What the last run knew, and what was taken of it; nothing where that is lost or spoilt."""
    try:
        state = json.loads(path.read_text())
        known = {
            str(key): {"addresses": [str(one) for one in entry["addresses"]], "failed": int(entry["failed"])}
            for key, entry in state["known"].items()
        }
        return known, {str(key): str(text) for key, text in state["taken"].items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        print(f"{path} is spoilt, and begun anew: {error!r}", file=sys.stderr)
    return {}, {}


def main(uses: Path = USES, state: Path = STATE, metrics: Path = METRICS) -> int:
    wanted = {path.stem: json.loads(path.read_text()) for path in sorted(uses.glob("*.json"))}
    names = {name for use in wanted.values() for listed in use["lists"].values() for name in listed}
    known, taken = read_state(state / "state.json")
    if known:  # before the resolver is waited for: after a reboot the firewall's sets are empty
        hand_on(wanted, known, taken, state)
    answers = resolve([(name, family) for name in sorted(names) for family in FAMILIES])
    known = remember(known, names, answers)
    well = hand_on(wanted, known, taken, state)
    write(state / "state.json", json.dumps({"known": known, "taken": taken}, indent=1))
    if metrics.is_dir():
        write(metrics / "mirrorfleet-names.prom", metrics_of(names, known))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
