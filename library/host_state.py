#!/usr/bin/python
"""What a host is, compared with what a role declares; and the bulk change of its files.

Documented in host_state.yml beside it. Runs on the target, sent by action_plugins/host_state.py.
It imports neither AnsibleModule nor anything else outside the standard library: compiling
ansible.module_utils.basic costs a target more than the whole check, and AnsibleModule writes a module's
arguments to syslog, where contents of files have no business. It is one file for the same reason: what lies in
module_utils travels in Ansible's wrapper, which imports basic (measured: 176 kB and 0.30 s a run instead of 22 kB
and 0.07 s).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import fnmatch
import grp
import hashlib
import json
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import Any

Item = dict[str, Any]

# Ansible takes this marker for its cue to fill in the arguments as JSON and to send nothing else along.
# The request inside is base64: no content can end the string early.
ARGUMENTS = r"""<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""

LARGEST_DIFF = 100_000
COMMAND_SECONDS = 120  # of one of the host's own programs
# What `systemctl is-enabled` accepts, except for what is forgotten at the next boot.
IS_ENABLED = {"enabled", "static", "alias", "indirect", "generated"}
DPKG = "/var/lib/dpkg"
TRIAL = "host-state-firewall"  # the timer that takes a ruleset back that nobody proved
LONGEST_WAIT_FOR_DPKG = 300  # seconds; unattended upgrades take minutes


class HostError(Exception):
    """Something the person running the play has to know and do something about."""


class Drift(list[dict[str, str]]):
    """The differences found, in the order of the declaration."""

    def add(self, kind: str, name: str, what: str, before: object, after: object) -> None:
        self.append({"kind": kind, "name": name, "what": what, "before": str(before), "after": str(after)})

    def compare(self, kind: str, name: str, what: str, before: object, after: object) -> None:
        """Only what is declared is compared."""
        if after is not None and before != after:
            self.add(kind, name, what, before, after)


def run(command: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise HostError(
            f"{command[0]} did not end within {COMMAND_SECONDS} seconds: the host is stuck; look at it"
        ) from None
    except FileNotFoundError:
        raise HostError(f"{command[0]} is not installed on this host, or not on PATH") from None


# --- packages, users, groups ----------------------------------------------------------------------


def dpkg_is_busy() -> bool:
    try:
        with open(f"{DPKG}/lock-frontend", "rb+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def list_packages(names: list[str]) -> tuple[dict[str, tuple[str, str]], bool]:
    """Status and version of each package, and whether dpkg has work it did not finish."""
    form = "${Package}\t${db:Status-Status}\t${Version}\n"
    listing = run(["dpkg-query", "--show", f"--showformat={form}", *names])
    found: dict[str, tuple[str, str]] = {}
    for line in listing.stdout.splitlines():
        name, status, version = line.split("\t")
        if name not in found or status == "installed":  # of several architectures
            found[name] = ("absent", "") if status in {"not-installed", "config-files"} else (status, version)
    journal = any(name.isdigit() for name in os.listdir(f"{DPKG}/updates"))
    return found, journal or any(status not in {"installed", "absent"} for status, _ in found.values())


def check_packages(packages: list[Item], drift: Drift) -> None:
    if not packages:
        return
    names = [package["name"] for package in packages]
    found, unfinished = list_packages(names)
    until = time.monotonic() + LONGEST_WAIT_FOR_DPKG
    while unfinished and dpkg_is_busy() and time.monotonic() < until:
        time.sleep(1)
        found, unfinished = list_packages(names)
    for package in packages:
        name, wanted = package["name"], package["version"]
        status, version = found.get(name, ("absent", ""))
        if status != "installed":
            drift.add("package", name, "state", status, "installed")
        elif wanted is not None and not fnmatch.fnmatchcase(version, wanted):
            drift.add("package", name, "version", version, wanted)
    if unfinished:
        drift.add("package", "dpkg", "interrupted", "yes", "no")


def check_groups(groups: list[Item], drift: Drift) -> None:
    for group in groups:
        try:
            found = grp.getgrnam(group["name"])
        except KeyError:
            drift.add("group", group["name"], "state", "absent", "present")
        else:
            drift.compare("group", group["name"], "gid", found.gr_gid, group["gid"])


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def check_users(users: list[Item], drift: Drift) -> None:
    for user in users:
        name = user["name"]
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            drift.add("user", name, "state", "absent", "present")
            continue
        drift.compare("user", name, "uid", found.pw_uid, user["uid"])
        drift.compare("user", name, "group", group_name(found.pw_gid), user["group"])
        drift.compare("user", name, "home", found.pw_dir, user["home"])
        drift.compare("user", name, "shell", found.pw_shell, user["shell"])
        drift.compare("user", name, "comment", found.pw_gecos, user["comment"])
        if user["groups"] is not None:
            actual = {group.gr_name for group in grp.getgrall() if name in group.gr_mem}
            wanted = set(user["groups"])
            if actual != wanted:
                drift.add("user", name, "groups", " ".join(sorted(actual)), " ".join(sorted(wanted)))
        if user["create_home"] and not os.path.isdir(found.pw_dir):
            drift.add("user", name, "home directory", "absent", "present")


# --- paths ----------------------------------------------------------------------------------------


def lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def kind_of(path: str, found: os.stat_result | None) -> str:
    if found is None:
        return "absent"
    if stat.S_ISLNK(found.st_mode):
        return f"link to {os.readlink(path)}"
    if stat.S_ISDIR(found.st_mode):
        return "directory"
    return "file" if stat.S_ISREG(found.st_mode) else "special file"


def owner_id(name: str) -> int | None:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def group_id(name: str) -> int | None:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def check_attributes(kind: str, item: Item, found: os.stat_result, drift: Drift) -> None:
    path = item["path"]
    if found.st_uid != owner_id(item["owner"]):
        drift.add(kind, path, "owner", user_name(found.st_uid), item["owner"])
    if found.st_gid != group_id(item["group"]):
        drift.add(kind, path, "group", group_name(found.st_gid), item["group"])
    mode = stat.S_IMODE(found.st_mode)
    if mode != int(item["mode"], 8):
        drift.add(kind, path, "mode", f"{mode:04o}", item["mode"])


def check_directories(directories: list[Item], drift: Drift) -> None:
    for item in directories:
        found = lstat(item["path"])
        kind = kind_of(item["path"], found)
        if found is None or kind != "directory":
            drift.add("directory", item["path"], "state", kind, "directory")
        else:
            check_attributes("directory", item, found, drift)


def read_file(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as stream:
        return stream.read()


def check_files(files: list[Item], drift: Drift, contents: dict[str, str] | None) -> None:
    """Contents, when given, receives the present text of what differs, but never of a secret."""
    for item in files:
        path = item["path"]
        found = lstat(path)
        kind = kind_of(path, found)
        if found is None or kind != "file":
            drift.add("file", path, "state", kind, "file")
            continue
        content = read_file(path)
        digest = hashlib.sha256(content).hexdigest()
        if digest != item["sha256"]:
            if item["secret"]:
                drift.add("file", path, "content", "(secret, as found)", "(secret, as declared)")
            else:
                drift.add("file", path, "content", f"sha256:{digest[:16]}", f"sha256:{item['sha256'][:16]}")
                if contents is not None and len(content) <= LARGEST_DIFF:
                    contents[path] = base64.b64encode(content).decode()
        check_attributes("file", item, found, drift)


def check_links(links: list[Item], drift: Drift) -> None:
    for item in links:
        kind = kind_of(item["path"], lstat(item["path"]))
        drift.compare("link", item["path"], "state", kind, f"link to {item['target']}")


def check_absent(absent: list[Item], drift: Drift) -> None:
    for item in absent:
        drift.compare("absent", item["path"], "state", kind_of(item["path"], lstat(item["path"])), "absent")


# --- firewall, units, owed handlers ---------------------------------------------------------------


def without_elements_if_dynamic(body: list[str]) -> list[str]:
    if not any(line.startswith("\t\tflags ") and "dynamic" in line for line in body):
        return body
    kept, inside = [], False
    for line in body:
        inside = inside or line.startswith("\t\telements = ")
        if not inside:
            kept.append(line)
        elif line.rstrip().endswith("}"):
            inside = False
    return kept


def declared_part(listing: str) -> str:
    """What packets put into a dynamic set is no part of the declaration."""
    kept: list[str] = []
    body: list[str] = []
    for line in listing.splitlines():
        if line.startswith("\t\t"):
            body.append(line)
        else:
            kept += [*without_elements_if_dynamic(body), line]
            body = []
    return "\n".join(kept)


def former_ruleset(state: str) -> str:
    """There as long as a new ruleset is on trial: what the tables were before."""
    return os.path.join(state, "former.nft")


def closes(chain: str) -> bool:
    """Whether a chain of another firewall has rules, or drops by its policy; one that is gone does not."""
    listed = run(["nft", "--stateless", "list", "chain", *chain.split()])
    lines = [line.strip() for line in listed.stdout.splitlines() if line.startswith("\t\t")]
    return listed.returncode == 0 and any("policy accept;" not in line for line in lines)


def check_firewall(firewall: Item | None, state: str, drift: Drift) -> None:
    if firewall is None:
        return
    name = ", ".join(firewall["tables"])
    if shutil.which("nft") is None:
        drift.add("firewall", name, "ruleset", "nft is not installed", "as declared")
        return
    listing = " && ".join(f"nft --stateless --numeric list table {table}" for table in firewall["tables"])
    wanted = run(["unshare", "--net", "sh", "-c", f"nft -f - && {listing}"], firewall["ruleset"])
    if wanted.returncode != 0:
        raise HostError(
            "the declared ruleset does not load into an empty network namespace, so nothing was changed: "
            f"{wanted.stderr.strip()}"
        )
    live = run(["sh", "-c", listing])
    before = live.stdout if live.returncode == 0 else "absent"
    drift.compare("firewall", name, "ruleset", declared_part(before), declared_part(wanted.stdout))
    for chain in firewall["opens"]:
        if closes(chain):
            drift.add("firewall", chain, "rules", "closed by another firewall", "open")
    if lstat(former_ruleset(state)) is not None:
        drift.add("firewall", name, "trial", "not proven", "proven")


def show_units(names: list[str]) -> list[dict[str, str]]:
    properties = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload"
    shown = run(["systemctl", "--no-pager", "show", f"--property={properties}", "--", *names])
    if shown.returncode != 0:
        raise HostError(f"systemctl show: {shown.stderr.strip()}")
    blocks = shown.stdout.strip().split("\n\n")
    return [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]


def check_unit(unit: Item, found: dict[str, str], drift: Drift) -> None:
    name, file_state = unit["name"], found["UnitFileState"]
    active, detail = found["ActiveState"], found["SubState"]
    masked = found["LoadState"] == "masked" or file_state.startswith("masked")
    if found["LoadState"] == "not-found" and (unit["enabled"] or unit["state"] == "started"):
        drift.add("unit", name, "state", "not found", "present")
    if masked != unit["masked"]:
        before = "until reboot" if file_state == "masked-runtime" else "yes" if masked else "no"
        drift.add("unit", name, "masked", before, "yes" if unit["masked"] else "no")
    if unit["enabled"] is not None and not masked:
        enabled = (
            file_state in IS_ENABLED if unit["enabled"] else file_state in {"enabled", "enabled-runtime"}
        )
        if enabled != unit["enabled"]:
            drift.add(
                "unit", name, "enabled", file_state or "no", "enabled" if unit["enabled"] else "disabled"
            )
    # A service between two crashes calls itself activating, too.
    runs = active in {"active", "reloading"} or (active == "activating" and detail != "auto-restart")
    if (unit["state"] == "started" and not runs) or (
        unit["state"] == "stopped" and active not in {"inactive", "failed"}
    ):
        drift.add("unit", name, "active", f"{active} ({detail})", unit["state"])


def check_units(units: list[Item], others: list[str], drift: Drift) -> None:
    """Others are units whose files are declared; only a due daemon-reload matters for them."""
    names = [unit["name"] for unit in units] + others
    if not names:
        return
    shown = show_units(names)
    for unit, found in zip(units, shown, strict=False):
        check_unit(unit, found, drift)
    for name, found in zip(names, shown, strict=True):
        if found["NeedDaemonReload"] == "yes":
            drift.add("unit", name, "definition", "changed on disk", "loaded")


def owed_path(state: str, handler: str) -> str:
    return os.path.join(state, "owed", urllib.parse.quote(handler, safe=" "))


def check_owed(state: str, handlers: list[str], drift: Drift) -> None:
    for handler in handlers:
        if lstat(owed_path(state, handler)) is not None:
            reason = read_file(owed_path(state, handler)).decode()
            drift.add("handler", handler, "owed", f"not settled since {reason} changed", "settled")


# --- the host as it was found ---------------------------------------------------------------------


def found_path(state: str) -> str:
    return os.path.join(state, "found")


def saved_path(state: str, path: str) -> str:
    return os.path.join(found_path(state), "paths", urllib.parse.quote(path, safe=""))


def remember(state: str, drift: Drift) -> None:
    """Before anything is changed: what is about to be, as it was found the first time. host_undo brings it back."""
    journal = os.path.join(found_path(state), "journal.json")
    known: dict[str, Item] = json.loads(read_file(journal)) if lstat(journal) else {}
    now = known | {"packages": what_came_along(known.get("packages", {}), drift)}
    for entry in drift:
        key = f"{entry['kind'] if entry['kind'] in REMEMBERED else 'path'} {entry['name']}"
        if key in known or entry["kind"] in {"handler", "firewall"} or entry["name"] == "dpkg":
            continue
        facts = now.setdefault(key, {})
        if entry["kind"] in REMEMBERED:
            facts[entry["what"]] = entry["before"]
        else:
            facts |= remembered_path(state, entry["name"])
    if now == known or not (drift or known):
        return
    os.makedirs(found_path(state), 0o700, exist_ok=True)
    with open(beside(journal), "w", encoding="utf-8") as stream:
        json.dump(now, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside(journal), journal)


def what_came_along(known: Item, drift: Drift) -> Item:
    """With packages of ours: packages and accounts that a later check finds, and that were not there before."""
    came, before = set(known.get("came", [])), known.get("before", [])
    due = any(entry["kind"] == "package" for entry in drift)
    if before or due:
        there = {f"package {name}" for name in installed_packages()}
        there |= {f"user {entry.pw_name}" for entry in pwd.getpwall()}
        there |= {f"group {entry.gr_name}" for entry in grp.getgrall()}
        came |= there - set(before or there)
        before = sorted(there) if due else []
    return {"came": sorted(came), "before": before}


REMEMBERED = ("package", "user", "group", "unit")


def remembered_path(state: str, path: str) -> Item:
    found = lstat(path)
    kind = kind_of(path, found)
    if found is None:
        return {"state": "absent"}
    if kind != "directory":
        saved = saved_path(state, path)
        os.makedirs(os.path.dirname(saved), 0o700, exist_ok=True)
        copied = run(["cp", "--archive", "--no-target-directory", "--remove-destination", path, saved])
        if copied.returncode != 0:
            raise HostError(
                f"{path} could not be kept as it was found, nothing was changed: {copied.stderr.strip()}"
            )
    return {
        "state": "directory" if kind == "directory" else "saved",
        "owner": found.st_uid,
        "group": found.st_gid,
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
    }


def installed_packages() -> list[str]:
    listing = run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n"])
    return [line.split()[1] for line in listing.stdout.splitlines() if line.startswith("installed ")]


def check(request: Item) -> Item:
    drift = Drift()
    contents: dict[str, str] | None = {} if request["with_contents"] else None
    check_packages(request["packages"], drift)
    check_groups(request["groups"], drift)
    check_users(request["users"], drift)
    check_directories(request["directories"], drift)
    check_files(request["files"], drift, contents)
    check_links(request["links"], drift)
    check_absent(request["absent"], drift)
    check_firewall(request["firewall"], request["state_directory"], drift)
    check_units(request["units"], request["unit_files"], drift)
    check_owed(request["state_directory"], request["handlers"], drift)
    if request["remember"]:
        with alone():
            remember(request["state_directory"], drift)
    return {"drift": drift, "contents": contents or {}}


# --- change ---------------------------------------------------------------------------------------


def own(descriptor: int, item: Item) -> None:
    """By descriptor, so that no link put in the way is followed; the mode last, for chown clears setuid."""
    owner, group = owner_id(item["owner"]), group_id(item["group"])
    if owner is None:
        raise HostError(f"{item['path']}: there is no user {item['owner']} to own it; declare it in users")
    if group is None:
        raise HostError(f"{item['path']}: there is no group {item['group']} to own it; declare it in groups")
    os.fchown(descriptor, owner, group)
    os.fchmod(descriptor, int(item["mode"], 8))


def own_path(item: Item, flags: int = 0) -> None:
    descriptor = os.open(item["path"], os.O_RDONLY | os.O_NOFOLLOW | flags)
    try:
        own(descriptor, item)
    finally:
        os.close(descriptor)


def make_way(path: str) -> None:
    """Whatever stands where something else is declared goes, but no directory that holds anything."""
    found = lstat(path)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(path)
        return
    try:
        os.rmdir(path)
    except OSError:
        raise HostError(
            f"{path} is a directory that is not empty, and is not removed; move it away by hand"
        ) from None


def make_directory(item: Item) -> None:
    path = item["path"]
    if kind_of(path, lstat(path)) != "directory":
        make_way(path)
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    own_path(item, os.O_DIRECTORY)


def beside(path: str) -> str:
    """A fixed name: what a killed run left is found and overwritten. The dot hides it from conf.d globs."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.host_state")


def stage(item: Item) -> None:
    staged = beside(item["path"])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged)
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        raise HostError(f"{item['path']}: its directory does not exist; declare it in directories") from None
    with open(descriptor, "wb") as stream:
        stream.write(base64.b64decode(item["content"]))
        own(descriptor, item)
        stream.flush()
        os.fsync(descriptor)
    if item["validate"]:
        verdict = run([staged if word == "%s" else word for word in shlex.split(item["validate"])])
        if verdict.returncode != 0:
            said = (
                "(hidden, the file is secret)"
                if item["secret"]
                else (verdict.stdout + verdict.stderr).strip()
            )
            raise HostError(f"{item['path']}: {item['validate']} refuses it; no file was changed: {said}")


def place_file(item: Item) -> None:
    path = item["path"]
    if item["content"] is not None:
        if kind_of(path, lstat(path)) == "directory":
            make_way(path)
        os.replace(beside(path), path)
        return
    own_path(item)


def place_link(item: Item) -> None:
    path = item["path"]
    staged = beside(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged)
    os.symlink(item["target"], staged)
    if kind_of(path, lstat(path)) == "directory":
        make_way(path)
    os.replace(staged, path)


def remove(item: Item) -> None:
    if kind_of(item["path"], lstat(item["path"])) == "directory":
        shutil.rmtree(item["path"])
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(item["path"])


def owe(state: str, handlers: dict[str, str]) -> None:
    if not handlers:
        return
    os.makedirs(os.path.join(state, "owed"), 0o700, exist_ok=True)
    for handler, reason in handlers.items():
        with open(owed_path(state, handler), "w", encoding="utf-8") as stream:
            stream.write(reason)
            stream.flush()
            os.fsync(stream.fileno())


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One change of this host at a time: two plays, or two delegated tasks of one, would share staged names."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)  # there for every user, and nothing to clean up
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def apply(request: Item) -> Item:
    with alone():
        return change(request)


def change(request: Item) -> Item:
    for item in request["directories"]:
        make_directory(item)
    try:
        for item in request["files"]:
            if item["content"] is not None:
                stage(item)
        owe(request["state_directory"], request["owed"])
        for item in request["files"]:
            place_file(item)
        for item in request["links"]:
            place_link(item)
    finally:
        for item in [*request["files"], *request["links"]]:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(beside(item["path"]))
    for item in request["absent"]:
        remove(item)
    return {}


def load_on_trial(request: Item) -> Item:
    """The new ruleset, with a timer that takes it back: as iptables-apply(8) does, but nobody has to stay connected.

    Nothing on disk is changed yet, so that a reboot in between brings the former ruleset, too.
    """
    state, firewall = request["state_directory"], request["firewall"]
    former = former_ruleset(state)
    with alone():
        closing = [chain for chain in firewall["opens"] if closes(chain)]
        run(["systemctl", "stop", f"{TRIAL}.timer"])
        if lstat(former) is None:  # of several trials in a row the first knows
            os.makedirs(state, 0o700, exist_ok=True)
            with open(beside(former), "w", encoding="utf-8") as stream:
                for table in firewall["tables"]:
                    live = run(["nft", "--stateless", "list", "table", *table.split()])
                    stream.write(f"table {table} {{}}\ndelete table {table}\n{live.stdout}")
                for chain in closing:
                    rules = run(["nft", "--stateless", "list", "chain", *chain.split()]).stdout
                    # Declared first: it may be gone by then.
                    head = re.sub(r"^\t\t(?!type ).*\n", "", rules, flags=re.MULTILINE)
                    stream.write(f"{head}flush chain {chain}\n{rules}")
                stream.flush()
                os.fsync(stream.fileno())
            back = run(["nft", "--check", "--file", beside(former)])
            if back.returncode != 0:
                raise HostError(
                    "the present rules could not be brought back, so the firewall was not changed; take the rules that "
                    f"nft does not know out of it by hand: {back.stderr.strip()}"
                )
            os.replace(beside(former), former)
            found = os.path.join(found_path(state), "firewall.nft")
            if lstat(found) is None:
                os.makedirs(found_path(state), 0o700, exist_ok=True)
                shutil.copyfile(former, found)
        after = [f"--on-active={firewall['trial_seconds']}", "--timer-property=AccuracySec=100ms"]
        take_back = ["sh", "-c", 'nft -f "$0" && rm "$0"', former]
        armed = run(["systemd-run", "--quiet", "--collect", f"--unit={TRIAL}", *after, *take_back])
        if armed.returncode != 0:
            os.unlink(former)
            raise HostError(f"systemd-run: {armed.stderr.strip()}; the firewall was not changed")
        opened = "".join(
            "flush chain {0} {1} {2}\nadd chain {0} {1} {2} {{ policy accept; }}\n".format(*chain.split())
            for chain in closing
        )
        loaded = run(["nft", "-f", "-"], firewall["ruleset"] + opened)
        if loaded.returncode != 0:
            run(["systemctl", "stop", f"{TRIAL}.timer"])
            os.unlink(former)
            raise HostError(f"nft refuses the ruleset, the firewall was not changed: {loaded.stderr.strip()}")
    return {}


def keep_proven(request: Item) -> Item:
    """Asked by a connection that was made under the new ruleset."""
    run(["systemctl", "stop", f"{TRIAL}.timer", f"{TRIAL}.service"])
    former = former_ruleset(request["state_directory"])
    taken_back = lstat(former) is None
    if not taken_back:
        os.unlink(former)
    return {"taken_back": taken_back}


def settle(request: Item) -> Item:
    for handler in request["handlers"]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(owed_path(request["state_directory"], handler))
    return {}


ACTIONS = {
    "check": check,
    "apply": apply,
    "load_on_trial": load_on_trial,
    "keep_proven": keep_proven,
    "settle": settle,
}


def answer(request: Item) -> Item:
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["LC_ALL"] = "C.UTF-8"
    os.umask(0o022)
    try:
        return ACTIONS[request["action"]](request)
    except HostError as error:
        return {"failed": True, "msg": str(error)}
    except PermissionError as error:
        hint = "" if os.geteuid() == 0 else "; the task needs become: true"
        return {"failed": True, "msg": f"{error.filename or request['action']}: {error.strerror}{hint}"}
    except OSError as error:
        return {"failed": True, "msg": f"{error.filename or request['action']}: {error.strerror}"}


def main() -> None:
    request = json.loads(zlib.decompress(base64.b64decode(json.loads(ARGUMENTS)["request"])))
    json.dump(answer(request), sys.stdout)


if __name__ == "__main__":
    main()
