"""From the registry and what was measured to the list of mirrors and the documents that tell it."""

from __future__ import annotations

import datetime
import html
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.values import BadValueError, as_filter

# A mirror's clock may be this much ahead of ours, in seconds, before its claim to be fresh is not believed.
CLOCK_TOLERANCE = 300
# What a list entry takes over from the registry: nothing about a person but the name and page they chose.
PUBLIC = ("name", "url", "urls", "mode", "tier", "location", "bandwidth", "address_families")


def mirror_list(
    registry: dict[str, Any],
    measurements: dict[str, dict[str, Any]],
    holds: dict[str, str],
    now: int,
    staleness_limit: int | None = None,
    *,
    previous: dict[str, Any] | None = None,
    force: bool = False,
) -> list[dict[str, Any]]:
    fleet, records = _registry(registry)
    if staleness_limit is not None:
        fleet = fleet | {"staleness_limit": v.whole(60, 366 * 86400)(staleness_limit)}
    v.whole(0, 2**40)(now)
    for name, value in (("measurements", measurements), ("holds", holds)):
        if not isinstance(value, dict):
            raise BadValueError(f"{name} is {v.kind(value)}", "a mapping by mirror name, maybe empty")
    entries = []
    for record in records:
        if record["state"] == "retired":
            continue
        measured = _measured(record["name"], measurements.get(record["name"]))
        reason = _reason(record, fleet, measured, holds.get(record["name"]), now)
        entries.append(
            {key: record[key] for key in PUBLIC}
            | {
                "operator": {
                    key: record["operator"][key] for key in ("name", "url") if key in record["operator"]
                },
                "serial": measured.get("serial") if measured else None,
                "listed": not reason,
                "reason": reason,
            }
        )
    before = [entry["name"] for entry in (previous or {}).get("mirrors", []) if entry.get("listed")]
    if before and not any(entry["listed"] for entry in entries) and not force:
        why = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in entries) or "no mirror is left"
        raise BadValueError(
            f"the list would become empty, it has {len(before)} mirrors ({why})",
            "a list with at least one mirror, or force",
            "look at the vantage host first: when every mirror seems dead, it is usually cut off itself",
        )
    return entries


def _registry(registry: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not isinstance(registry, dict) or registry.get("schema") != 1:
        raise BadValueError(f"the registry is {v.shown(registry)}", "the result of fleet_registry, schema 1")
    return registry["fleet"], registry["mirrors"]


def _measured(name: str, measured: Any) -> dict[str, Any] | None:
    if measured is None:
        return None
    if not isinstance(measured, dict):
        raise BadValueError(
            f"measurements.{name} is {v.kind(measured)}", "a measurement of the module mirror_probe"
        )
    for key in ("ok", "measured_at"):
        if key not in measured:
            raise BadValueError(
                f"measurements.{name} lacks {key}", "a measurement of the module mirror_probe"
            )
    return measured


def _reason(
    record: dict[str, Any], fleet: dict[str, Any], measured: dict[str, Any] | None, hold: str | None, now: int
) -> str:
    """Why a mirror is not listed; empty when it is."""
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()
    agreement = record["agreement"]
    reason = ""
    if record["state"] == "drained":
        reason = "drained by its operator"
    elif hold is not None:
        reason = f"held: {_printable(hold)}"
    elif agreement["version"] != fleet["agreement_version"] or (agreement.get("expires_on") or today) < today:
        reason = "its agreement is not the fleet's current one"
    elif measured is None:
        reason = "not measured yet"
    elif now - measured["measured_at"] > fleet["staleness_limit"]:
        reason = f"not measured for {_span(now - measured['measured_at'])}"
    elif not measured["ok"]:
        reason = _failure(measured)
    elif record["mode"] != "cache":
        reason = _staleness(measured.get("last_modified"), now, fleet["staleness_limit"])
    return reason


def _failure(measured: dict[str, Any]) -> str:
    failures = measured.get("failures") or [{"check": "probe", "family": "", "problem": "failed"}]
    first = failures[0]
    family = f" over {first['family']}" if first.get("family") else ""
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{first['check']}{family}: {_printable(first['problem'])}{more}"


def _printable(words: Any) -> str:
    """Words of others, a mirror's answer say, on one bounded line."""
    return (
        "".join(character if character.isprintable() else " " for character in str(words))[:200]
        or "no reason given"
    )


def _staleness(last_modified: Any, now: int, limit: int) -> str:
    if last_modified is None:
        return "does not say how fresh it is (/last-modified)"
    if last_modified - now > CLOCK_TOLERANCE:
        return f"claims to be fresh as of {_span(last_modified - now)} from now"
    if now - last_modified > limit:
        return f"stale: last synced {_span(now - last_modified)} ago"
    return ""


def _span(seconds: int) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s"
    return f"{seconds} seconds"


def mirrors_json(mirrors: list[dict[str, Any]], registry: dict[str, Any]) -> str:
    fleet, _ = _registry(registry)
    document = {
        "schema": 1,
        "fleet": fleet["name"],
        "agreement_version": fleet["agreement_version"],
        "staleness_limit": fleet["staleness_limit"],
        "mirrors": mirrors,
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def mirrors_txt(mirrors: list[dict[str, Any]]) -> str:
    return "".join(f"{v.url(mirror['url'])}/simple/\n" for mirror in mirrors if mirror["listed"])


def mirrors_html(mirrors: list[dict[str, Any]], registry: dict[str, Any]) -> str:
    fleet, _ = _registry(registry)
    name = html.escape(fleet["name"])
    listed = [mirror for mirror in mirrors if mirror["listed"]]
    example = v.url(listed[0]["url"]) if listed else "https://MIRROR"
    return PAGE.format(
        name=name,
        listed=len(listed),
        known=len(mirrors),
        rows="".join(_row(mirror) for mirror in mirrors),
        index=html.escape(f"{example}/simple/"),
    )


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}: mirrors</title>
</head>
<body>
<main>
<h1><bdi>{name}</bdi>: mirrors</h1>
<p>{listed} of {known} mirrors are listed: reachable, fresh and complete when last measured from outside.
The same list for programs: <a href="mirrors.json">mirrors.json</a>, <a href="mirrors.txt">mirrors.txt</a>.</p>
<table>
<caption>Mirrors</caption>
<thead>
<tr><th scope="col">Mirror</th><th scope="col">Listed</th><th scope="col">Place</th><th scope="col">Operator</th>\
<th scope="col">Kind</th><th scope="col">Reachable by</th><th scope="col">Mbit/s</th>\
<th scope="col">Serial</th></tr>
</thead>
<tbody>
{rows}</tbody>
</table>
<h2>Use it</h2>
<p>Whoever runs the mirror you choose can change what you install from it: choose one whose operator you trust,
and prefer hashes (<code>--require-hashes</code>, lock files).</p>
<pre><code>pip install --index-url {index} PROJECT
uv pip install --default-index {index} PROJECT</code></pre>
</main>
</body>
</html>
"""


def _row(mirror: dict[str, Any]) -> str:
    url, place, operator = v.url(mirror["url"]), mirror["location"], mirror["operator"]
    who = f"<bdi>{html.escape(operator['name'])}</bdi>"
    if operator.get("url"):
        page = html.escape(v.url(operator["url"], schemes=("https", "http"), path=True))
        who = f'<a href="{page}" rel="nofollow noopener noreferrer">{who}</a>'
    state = "yes" if mirror["listed"] else f"no: <bdi>{html.escape(mirror['reason'])}</bdi>"
    cells = (
        state,
        f"<bdi>{html.escape(place['city'])}</bdi>, {html.escape(place['country'])}",
        who,
        html.escape(f"{mirror['mode']}, tier {mirror['tier']}"),
        html.escape(", ".join(mirror["address_families"])),
        html.escape(str(mirror["bandwidth"])),
        html.escape("" if mirror["serial"] is None else str(mirror["serial"])),
    )
    head = f'<th scope="row"><a href="{html.escape(url)}/simple/">{html.escape(mirror["name"])}</a></th>'
    return f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def metrics_targets(registry: dict[str, Any], port: int = 9100) -> str:
    _, records = _registry(registry)
    v.whole(1, 65535)(port)
    targets = [
        {
            "targets": [f"{record['url'].split('/')[2].split(':')[0]}:{port}"],
            "labels": {
                "mirror": record["name"],
                "operator": record["operator"]["name"],
                "country": record["location"]["country"],
                "continent": record["location"]["continent"],
                "mode": record["mode"],
                "tier": str(record["tier"]),
            },
        }
        for record in records
        if record["state"] != "retired"
    ]
    return json.dumps(targets, indent=2, sort_keys=True) + "\n"


class FilterModule:
    """From the registry to the list and its documents."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        functions = (mirror_list, mirrors_json, mirrors_txt, mirrors_html, metrics_targets)
        return {function.__name__: as_filter(function) for function in functions}
