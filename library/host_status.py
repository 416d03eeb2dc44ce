#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Tell what a host of the fleet is and does, from its own configuration, in one run that changes nothing.

Documented in host_status.yml beside it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from ansible.module_utils.basic import AnsibleModule

DEADLINE = 10  # seconds that one program may take
UNITS = ("mirror*", "nginx*", "nftables*", "chrony*", "prometheus*")
NEAR = 1 << 16  # bytes of a log that are read rather than searched
SPREAD = 5  # seconds that its lines may be out of order: each process of nginx writes its own when it likes
PROGRAMS = ("mirrorfleet", "bandersnatch")
OF_A_STANDING = ("listed", "code", "reason", "since", "next", "withdrawn")
OF_HEALTH = (
    "measured_at", "good", "bad", "since", "last_good", "problem", "serial", "last_modified", "lag",
    "certificate_expires", "refused",
)  # fmt: skip


def said_by(*command: str, stream: str = "stdout") -> str:
    """What a program says, empty when it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DEADLINE,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return str(getattr(done, stream)).strip() if done.returncode == 0 else ""


def document(path: Any) -> dict[str, Any]:
    """A JSON document; empty when there is none, or none that can be read."""
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def platform_of(release: Path = Path("/etc/os-release")) -> str:
    """ID and major version, such as debian-13."""
    fields = dict(re.findall(r"^([A-Z_]+)=[\"']?([^\"'\n]*)[\"']?$", release.read_text(), re.MULTILINE))
    return f"{fields.get('ID', 'unknown')}-{fields.get('VERSION_ID', 'unknown').partition('.')[0]}"


def versions_of(programs: Path, proc: Path) -> tuple[dict[str, str], str]:
    """Of each program what `current` leads to, and of nginx what runs; and whether nginx runs."""
    found = {}
    for name in PROGRAMS:
        link = programs / name / "current"
        if link.is_symlink():
            found[name] = Path(os.readlink(link)).name
    installed = said_by("dpkg-query", "-W", "-f", "${Version}", "nginx")
    if not installed:
        return found, ""
    found["nginx"] = installed
    running = nginx_of(proc)
    if running is None:
        return found, "stopped"
    if not os.readlink(running).endswith(" (deleted)"):
        return found, "running"
    # An upgrade replaced the file below a process that goes on.
    former = re.search(r"nginx/(\S+)", said_by(str(running), "-v", stream="stderr"))
    found["nginx"] = former[1] if former else "a former one"
    return found, f"runs what {installed} was to replace"


def installed(programs: Path, versions: Any) -> list[str]:
    """Which of our programs are there in these versions, whatever `current` leads to."""
    told = versions.items() if isinstance(versions, dict) else ()
    return sorted(
        name
        for name, version in told
        if name in PROGRAMS and isinstance(version, str) and version and (programs / name / version).is_dir()
    )


def nginx_of(proc: Path) -> Path | None:
    """The link to the program of nginx's oldest process, its master."""
    masters = []
    for process in proc.glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "nginx" and os.readlink(process / "exe"):
                masters.append(int(process.name))
        except OSError:
            continue  # it just ended
    return proc / str(min(masters)) / "exe" if masters else None


def certificate_ends(path: Path) -> int | None:
    """Seconds since 1970 of the end of the first certificate in a file."""
    told = said_by("openssl", "x509", "-noout", "-enddate", "-in", str(path))
    try:
        end = datetime.datetime.strptime(told.partition("=")[2], "%b %d %H:%M:%S %Y GMT")
    except ValueError:
        return None
    return int(end.replace(tzinfo=datetime.timezone.utc).timestamp())  # noqa: UP017 -- hosts may have an older Python


def tree_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a mirror or origin says of its tree."""
    paths = config.get("paths")
    served = Path(paths["served"]) if isinstance(paths, dict) and "served" in paths else None
    told = document(served / "mirror.json") if served else {}
    aside, left = told.get("set_aside"), told.get("left_out")
    return {
        "mode": config.get("mode"),
        "last_sync": seconds(told.get("last_success")),
        "serial": told.get("serial"),
        "set_aside": len(aside) if isinstance(aside, list) else 0,
        "left_out": sum(left.values()) if isinstance(left, dict) else 0,
        "compared_by_page": told.get("compared_by_page", 0),
        "refused": told.get("refused"),
    }


def seconds(text: Any) -> int | None:
    try:
        return int(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp())
    except (TypeError, ValueError):
        return None


def disk_of(path: Path) -> dict[str, Any]:
    """Of the file system at the nearest parent that there is."""
    place = next(one for one in (path, *path.parents) if one.exists())
    usage = shutil.disk_usage(place)
    return {"path": str(place), "free": usage.free, "total": usage.total}


def list_of(config: dict[str, Any]) -> dict[str, Any]:
    """The list that a redirector publishes: where each mirror stands."""
    published = document(Path(config["documents"]) / "mirrors.json")
    mirrors = published.get("mirrors")
    state = Path(config["state"])
    return {
        # As its last run left it, whether or not that changed a document.
        "at": int(state.stat().st_mtime) if state.exists() else None,
        "refused": metric(config.get("metrics"), "mirrorfleet_list_refused") == 1,
        "kept": metric(config.get("metrics"), "mirrorfleet_list_kept") == 1,
        "mirrors": {
            str(one["name"]): {key: one[key] for key in OF_A_STANDING if key in one}
            for one in (mirrors if isinstance(mirrors, list) else [])
        },
    }


def metric(path: Any, name: str) -> float | None:
    try:
        found = re.search(rf"^{name} (\S+)$", Path(path).read_text(), re.MULTILINE)
        return float(found[1]) if found else None
    except (OSError, TypeError, ValueError):
        return None


def holds_of(config: dict[str, Any]) -> dict[str, Any]:
    """By mirror why it is held, since when and by whom."""
    folder = Path(config["holds"]) if config.get("holds") else None
    found = {}
    for path in sorted(folder.iterdir()) if folder and folder.is_dir() else []:
        if path.name.startswith(".") or not path.is_file():
            continue
        by = folder.with_name("held-by") / path.name if folder else path
        found[path.name] = {
            "reason": path.read_text("utf-8", "replace").strip(),
            "since": int(path.stat().st_mtime),
            "by": by.read_text("utf-8", "replace").strip() if by.is_file() else "",
        }
    return found


def health_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a monitor last found of each mirror."""
    told = document(config.get("health"))
    mirrors = told.get("mirrors")
    reference = told.get("reference")
    return {
        "at": told.get("at"),
        "problem": reference.get("problem") if isinstance(reference, dict) else "",
        "mirrors": {
            str(name): {key: one.get(key) for key in OF_HEALTH}
            for name, one in (mirrors.items() if isinstance(mirrors, dict) else [])
        },
    }


def served_since(log: Path, since: int) -> dict[str, int]:
    """Requests that nginx has answered since then, and how many of them by a 5xx: by its log and the one before."""
    found = {"requests": 0, "failed": 0}
    for path in (log.with_name(f"{log.name}.1"), log):
        if not path.exists():
            continue
        with path.open("rb") as lines:
            lines.seek(begin_of(lines, since, path.stat().st_size))
            for line in lines:
                answered = re.match(rb'\{"time":"([^"]+)".*"status":([0-9])[0-9]{2},"bytes":', line)
                if answered and time_of(answered[1]) >= since:
                    found["requests"] += 1
                    found["failed"] += answered[2] == b"5"
    return found


def begin_of(lines: BinaryIO, since: int, end: int) -> int:
    """Not far before the first line of that time: a log of a day may be long."""
    begin = 0
    while end - begin > NEAR:
        middle = (begin + end) // 2
        lines.seek(middle)
        lines.readline()
        told = re.match(rb'\{"time":"([^"]+)"', lines.readline())
        if told and time_of(told[1]) < since - SPREAD:
            begin = middle
        else:
            end = middle
    return begin


def time_of(text: bytes) -> float:
    try:
        return datetime.datetime.fromisoformat(text.decode("ascii")).timestamp()
    except ValueError:
        return 0


def result_of(params: dict[str, Any], proc: Path = Path("/proc")) -> dict[str, Any]:
    """The module's whole result."""
    folder = Path(params["configuration"])
    mirror, of_list, monitor = (document(folder / f"{one}.json") for one in ("mirror", "list", "monitor"))
    versions, nginx = versions_of(Path(params["programs"]), proc)
    failed = said_by(
        "systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", *UNITS
    )
    found: dict[str, Any] = {
        "at": int(time.time()),
        "platform": platform_of(),
        "provisioned": bool(versions.get("mirrorfleet")),
        "versions": versions,
        "nginx": nginx,
        "certificate_expires": certificate_ends(folder / "tls/fullchain.pem"),
        "disk": disk_of(Path(params["disk"])),
        "failed_units": [line.split()[0] for line in failed.splitlines() if line.strip()],
    }
    if mirror:
        found["tree"] = tree_of(mirror)
    if of_list:
        found |= {"list": list_of(of_list), "holds": holds_of(of_list)}
    noted = folder / "update.json"
    if noted.exists():
        # Half a note is of an update that is not at its end, too.
        found["update"] = document(noted) or {"step": "unknown"}
    if former := document(folder / "former.json"):
        found["former"] = former | {"installed": installed(Path(params["programs"]), former.get("versions"))}
    if monitor:
        found["health"] = health_of(monitor)
    if params["since"]:
        found["served"] = served_since(Path(params["access_log"]), params["since"])
    return found


ARGUMENTS: dict[str, Any] = {
    "configuration": {"type": "path", "default": "/etc/mirrorfleet"},
    "programs": {"type": "path", "default": "/opt"},
    "disk": {"type": "path", "default": "/srv/mirror"},
    "since": {"type": "int"},
    "access_log": {"type": "path", "default": "/var/log/nginx/access.log"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        found = result_of(module.params)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        module.fail_json(msg=f"what the host says of itself cannot be read: {error!r}")
    module.exit_json(changed=False, status=found)


if __name__ == "__main__":
    main()
