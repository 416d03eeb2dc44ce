"""What /etc/mirrorfleet/mirror.json of a mirror, an origin, or a redirector with a tree says.

The fleet gives what differs from host to host, but for the upstream of those that name none: that one is discovered
when a playbook runs.
"""

from __future__ import annotations

from typing import Any

from plugin_utils import values as v
from plugin_utils.contract import SELECTION_DEFAULTS
from plugin_utils.rules import Fleet
from plugin_utils.values import BadValueError, Report

PATHS = {
    "fetched": "/srv/mirror/fetched",
    "served": "/srv/mirror/served",
    "state": "/var/lib/mirrorfleet",
    "metrics": "/var/lib/prometheus/node-exporter/mirrorfleet.prom",
    "certificate": "/etc/mirrorfleet/tls/fullchain.pem",
}
BANDERSNATCH = {
    "program": "/opt/bandersnatch/current/bin/bandersnatch",
    "config": "/etc/mirrorfleet/bandersnatch.conf",
}
SETTINGS: dict[str, tuple[Any, Any]] = {
    "minimum_free_bytes": (v.whole(0, 2**60), 1024**3),
    "maximum_shrink_share": (v.number(0, 1), 0.2),
    "tries_before_set_aside": (v.whole(1, 1000), 3),
    "check_share_per_day": (v.number(0, 1), 0.02),
}


def host_config(fleet: Fleet, name: str) -> dict[str, Any]:
    """The configuration of a host with a tree; `upstream` is empty where it has to be discovered."""
    if not fleet.of(name) & {"mirrors", "origins", "trees"}:
        raise BadValueError(
            f"{v.shown(name)} is neither mirror nor origin nor a redirector with a tree", "one of them"
        )
    record, is_origin = fleet.records[name], name in fleet.groups["origins"]
    if is_origin:
        mode, named = "origin", record.get("origin_upstream")
        chosen = {"projects": record["origin_projects"], "releases_kept": record.get("origin_releases_kept")}
    else:
        mode, named, chosen = fleet.mode(name), fleet.filled(name, "upstream"), fleet.selection(name)
        if (feeder := fleet.feeder(name)) is not None:
            named = fleet.urls(feeder)[0]
    return {
        "schema": 1,
        "name": name,
        "mode": mode,
        "url": [*fleet.index_urls(name), *fleet.urls(name)][0],
        "upstream": named or "",
        "index_url": f"{named}/simple/" if named else "",
        "selection": SELECTION_DEFAULTS | chosen,
    }


def mirror_config(
    config: dict[str, Any],
    discovered: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole of it, with the upstream that was discovered where none is named."""
    if not isinstance(config, dict) or not isinstance(config.get("name"), str) or "upstream" not in config:
        raise BadValueError(
            f"is {v.kind(config)}", "what the inventory gives a mirror or origin (fleet_inputs.config)"
        )
    report = Report(config["name"])
    for name in (settings or {}).keys() - SETTINGS.keys():
        report.add(name, "is no known setting", ", ".join(SETTINGS), v.did_you_mean(name, SETTINGS))
    tuned = {
        name: report.try_check(name, check, (settings or {}).get(name, default))
        for name, (check, default) in SETTINGS.items()
    }
    site, index = config["upstream"], config["index_url"]
    if not site:
        site, index = _discovered(config, discovered or {}, report)
    report.raise_if_any()
    whole = (
        config | {"upstream": site, "index_url": index, "paths": PATHS, "bandersnatch": BANDERSNATCH} | tuned
    )
    if config["mode"] == "rsync":
        whole["rsync"] = {"source": f"rsync://{site.split('://', 1)[1].split(':')[0]}/mirror"}
    return whole


def _discovered(config: dict[str, Any], discovered: dict[str, Any], report: Report) -> tuple[str, str]:
    index = discovered.get("index_url")
    if not index:
        report.add(
            "mirror_upstream",
            "is not given, and no upstream was discovered",
            "a URL or an inventory name",
            f"name mirror_upstream for {config['name']}, or run upstream_probe first and pass its result",
        )
        return "", ""
    checked = report.try_check(
        "discovered index_url", lambda value: v.url(value, schemes=("https", "http"), path=True), index
    )
    if checked is None:
        return "", ""
    site = checked.removesuffix("/simple")
    if site == checked and config.get("mode") == "bandersnatch":
        report.add(
            "mirror_upstream",
            f"the discovered index {checked} does not end in /simple/, which bandersnatch needs",
            "an index at SITE/simple/",
            "name another mirror_upstream, or use mirror_mode: cache",
        )
    return site, f"{checked}/"
