"""Units of systemd: timers that are spread over the hosts of a fleet, and the sandbox that every service runs in."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError

DAY = 24 * 60
# What none of ours needs; systemd.exec(5) says of each what it takes away.
SANDBOX: dict[str, Any] = {
    "ReadWritePaths": None,
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "PrivateDevices": "true",
    "PrivateMounts": "true",
    "ProtectKernelTunables": "true",
    "ProtectKernelModules": "true",
    "ProtectKernelLogs": "true",
    "ProtectControlGroups": "true",
    "ProtectClock": "true",
    "ProtectHostname": "true",
    "ProtectProc": "invisible",
    "NoNewPrivileges": "true",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": "true",
    "RestrictRealtime": "true",
    "RestrictSUIDSGID": "true",
    "LockPersonality": "true",
    "MemoryDenyWriteExecute": "true",
    "RemoveIPC": "true",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
    "SystemCallErrorNumber": "EPERM",
}


def systemd_calendar_spread(host: str, minutes: int = 10, purpose: str = "") -> str:
    """OnCalendar= for every so many minutes, at an offset that each host keeps and few hosts share."""
    v.text(host, most=253)
    v.whole(1, DAY)(minutes)
    if (60 % minutes if minutes <= 60 else minutes % 60 or DAY % minutes) != 0:
        raise BadValueError(
            f"{minutes} minutes do not divide an hour or a day evenly",
            "minutes that divide 60, or whole hours that divide 24",
        )
    digest = hashlib.sha256(f"{purpose}\0{host}".encode()).digest()
    offset = int.from_bytes(digest[:8], "big") % (minutes * 60)
    hour, minute, second = offset // 3600, offset // 60 % 60, offset % 60
    if minutes < 60:
        return f"*-*-* *:{minute:02d}/{minutes}:{second:02d}"
    every = "" if minutes == DAY else f"/{minutes // 60}"
    return f"*-*-* {hour:02d}{every}:{minute:02d}:{second:02d}"


def systemd_sandbox(differs: Mapping[str, Any]) -> str:
    """The lines of [Service] that confine a service; what differs for it replaces, adds, or with None takes away."""
    if not isinstance(differs, Mapping):
        raise BadValueError("is no mapping", "settings of systemd.exec(5) by name")
    lines = []
    for name, value in (SANDBOX | dict(differs)).items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Z][A-Za-z]+", name):
            raise BadValueError(f"has the key {v.shown(name)}", "names of settings of systemd.exec(5)")
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(one, str) or not re.fullmatch(r"[ -~]*", one) or one.endswith("\\"):
                raise BadValueError(
                    f"has {v.shown(one)} under {name}", "a line of text, a list of lines, or null"
                )
            lines.append(f"{name}={one}")
    return "\n".join(lines)


class FilterModule:
    """What units of systemd are made of."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "systemd_calendar_spread": as_filter(systemd_calendar_spread),
            "systemd_sandbox": as_filter(systemd_sandbox),
        }
