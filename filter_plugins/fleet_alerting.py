"""Who is told of which alert: the configuration of Alertmanager.

Documentation of the filter: the YAML file of its name beside this one.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError

DAY = datetime.timedelta(days=1)
MINUTE = datetime.timedelta(minutes=1)
TEMPLATES = "/etc/prometheus/mirrorfleet.tmpl"
PASSWORD_FILE = "/etc/prometheus/alertmanager-relay-password"  # noqa: S105 (where it is, not what it is)
# While the monitor itself looks cut off, what it finds of mirrors is not believed.
DOUBTED = "MirrorFails|MirrorStale|MirrorFailsLong"
DOUBTING = "MonitorCutOff|MostMirrorsFail"


def alertmanager_config(
    contacts: dict[str, Any], group_wait: int = 120, group_interval: int = 300, repeat_interval: int = 86400
) -> dict[str, Any]:
    for name, seconds in (
        ("group_wait", group_wait),
        ("group_interval", group_interval),
        ("repeat_interval", repeat_interval),
    ):
        try:
            v.whole(0 if name == "group_wait" else 1, 30 * 86400)(seconds)
        except BadValueError as wrong:
            raise BadValueError(f"{name} {wrong.problem}", f"{wrong.allowed} (seconds)") from wrong
    relay, mirrors, coordinator = contacts["relay"], contacts["mirrors"], contacts["coordinator"]
    windows = {f"maintenance of {one['name']}": _intervals(one) for one in mirrors if one["maintenance"]}
    return {
        "global": _relay(relay),
        "templates": [TEMPLATES],
        "route": {
            # What nobody else is told of, such as an alert of a mirror that is not known here.
            "receiver": "coordinator",
            "group_by": ["alertname"],
            "group_wait": f"{group_wait}s",
            "group_interval": f"{group_interval}s",
            "repeat_interval": f"{repeat_interval}s",
            "routes": _routes(mirrors),
        },
        "inhibit_rules": [
            {
                "source_matchers": [f'alertname=~"{DOUBTING}"'],
                "target_matchers": [f'alertname=~"{DOUBTED}"'],
                "equal": ["monitor"],
            }
        ],
        "receivers": [
            _receiver("coordinator", coordinator, relay, coordinator["email"]),
            {"name": "nobody"},
            *(_receiver(_operator(one), one, relay, coordinator["email"]) for one in mirrors),
        ],
        "time_intervals": [{"name": name, "time_intervals": spans} for name, spans in windows.items()],
    }


def _operator(mirror: dict[str, Any]) -> str:
    return f"operator of {mirror['name']}"


def _relay(relay: dict[str, Any]) -> dict[str, Any]:
    if not relay:
        return {}
    found = {
        "smtp_smarthost": relay["address"],
        "smtp_from": relay["from"],
        "smtp_require_tls": relay["starttls"],
    }
    if "user" in relay:
        found |= {"smtp_auth_username": relay["user"], "smtp_auth_password_file": PASSWORD_FILE}
    return found


def _matches(name: str) -> str:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'mirror="{quoted}"'


def _routes(mirrors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every alert goes on to the next of these: who is told of it does not keep it from others."""

    def muted(mirror: dict[str, Any]) -> dict[str, Any]:
        return {"mute_time_intervals": [f"maintenance of {mirror['name']}"]} if mirror["maintenance"] else {}

    def of_mirror(mirror: dict[str, Any], receiver: str, **more: Any) -> dict[str, Any]:
        return {"matchers": [_matches(mirror["name"])], "receiver": receiver, **more}

    return [
        {
            "matchers": ['severity="coordinator"'],
            "receiver": "coordinator",
            "group_by": ["alertname"],
            "continue": True,
        },
        {
            "matchers": ['copy="coordinator"'],
            "receiver": "coordinator",
            "group_by": ["mirror"],
            "continue": True,
            "routes": [of_mirror(one, "coordinator", **muted(one)) for one in mirrors if one["maintenance"]],
        },
        {
            "matchers": ['severity="operator"'],
            "receiver": "coordinator",
            "group_by": ["mirror"],
            "continue": True,
            "routes": [of_mirror(one, _operator(one), **muted(one)) for one in mirrors],
        },
        # Not muted: that a mirror served wrong bytes is no part of anybody's maintenance.
        {
            "matchers": ['copy="operator"'],
            "receiver": "nobody",
            "group_by": ["mirror"],
            "routes": [of_mirror(one, _operator(one)) for one in mirrors],
        },
    ]


def _receiver(name: str, who: dict[str, Any], relay: dict[str, Any], reply_to: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name}
    if relay and who["email"]:
        headers = {"Subject": '{{ template "mirrorfleet.subject" . }}', "Auto-Submitted": "auto-generated"}
        found["email_configs"] = [
            {
                "to": who["email"],
                "send_resolved": True,
                "headers": headers | ({"Reply-To": reply_to} if reply_to else {}),
                # Plain text alone: words of a mirror cannot become markup.
                "text": '{{ template "mirrorfleet.text" . }}',
                "html": "",
            }
        ]
    if who["webhook"]:
        found["webhook_configs"] = [{"url": who["webhook"], "send_resolved": True}]
    return found


def _intervals(mirror: dict[str, Any]) -> list[dict[str, Any]]:
    """A mirror's windows as Alertmanager knows them: by calendar and minute, in UTC."""
    found = []
    for window in mirror["maintenance"]:
        start, end = v.moment(window["from"]), v.moment(window["until"])
        start = start.replace(second=0, microsecond=0)
        if end.second or end.microsecond:
            end = end.replace(second=0, microsecond=0) + MINUTE
        found += [_interval(*one) for one in _parts(start, end)]
    return found


def _parts(
    start: datetime.datetime, end: datetime.datetime
) -> Iterator[tuple[datetime.datetime, int, str, str]]:
    """The first day, whole days up to the end of each month, the last day: day, number of days, hours."""
    while start < end:
        midnight = start.replace(hour=0, minute=0)
        if start != midnight or end - start < DAY:
            last = min(end, midnight + DAY)
            yield start, 1, f"{start:%H:%M}", "24:00" if last == midnight + DAY else f"{last:%H:%M}"
            start = last
        else:
            next_month = (start.replace(day=1) + 32 * DAY).replace(day=1)
            days = (min(end, next_month) - start) // DAY
            yield start, days, "00:00", "24:00"
            start += days * DAY


def _interval(day: datetime.datetime, days: int, start: str, end: str) -> dict[str, Any]:
    return {
        "years": [str(day.year)],
        "months": [str(day.month)],
        "days_of_month": [f"{day.day}:{day.day + days - 1}"],
        "times": [{"start_time": start, "end_time": end}],
    }


class FilterModule:
    """From who is to be told to Alertmanager's configuration."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"alertmanager_config": as_filter(alertmanager_config)}
