"""From a mirror's configuration to bandersnatch.conf, failing closed.

bandersnatch itself fails open: an unknown plugin name and an empty allowlist mean "mirror everything", with
exit code 0. So nothing gets past this file that bandersnatch would not take at its word; whether it has the
plugins, ours among them, mirrorfleet asks before each run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.contract import selection
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError, Report

Sections = dict[str, dict[str, str | list[str]]]

# Options that only one major version has. Others are refused until somebody has read their source.
OWN_OPTIONS: dict[str, dict[str, str]] = {
    "6": {"api-method": "simple"},
    "8": {"core-metadata": "true", "cleanup_todo": "true"},
}
# Without them upstream says where bandersnatch writes (mirrorfleet.fetch.plugins).
GUARDS = ("mirrorfleet_names", "mirrorfleet_places")


def bandersnatch_config(
    config: dict[str, Any],
    version: str,
    *,
    workers: int = 3,
    timeout: int = 30,
    global_timeout: int = 18000,
    compare_method: str = "stat",
    allow_http: bool = False,
) -> str:
    sections = _sections(
        config,
        version,
        {
            "workers": str(v.whole(1, 10)(workers)),
            "verifiers": str(v.whole(1, 10)(workers)),
            "timeout": str(v.whole(1, 3600)(timeout)),
            "global-timeout": str(v.whole(1, 7 * 86400)(global_timeout)),
            "compare-method": v.choice("stat", "hash")(compare_method),
        },
        v.boolean(allow_http),
    )
    return "\n".join(
        f"[{name}]\n" + "".join(_option(key, value) for key, value in options.items())
        for name, options in sections.items()
    )


def _option(key: str, value: str | list[str]) -> str:
    if isinstance(value, str):
        return f"{key} = {value}\n"
    return f"{key} =\n" + "".join(f"    {line}\n" for line in value)


def _sections(config: dict[str, Any], version: str, tuning: dict[str, str], allow_http: bool) -> Sections:
    if not isinstance(config, dict) or not isinstance(config.get("name"), str):
        raise BadValueError(f"is {v.kind(config)}", "the result of mirror_config")
    report = Report(config["name"])
    # A number is refused: YAML reads 8.10 as 8.1.
    known = re.fullmatch(r"(6)\.8(?:\.[0-9]+)+|(8)(?:\.[0-9]+)+", version if isinstance(version, str) else "")
    if known is None:
        report.add(
            "fleet_versions.bandersnatch",
            f"is {v.shown(version)}, whose configuration is not known here",
            "6.8.x and 8.x, the series this filter was checked against",
        )
    major = known[1] or known[2] if known else "8"
    if config.get("mode") != "bandersnatch":
        report.add("mirror_mode", f"is {v.shown(config.get('mode'))}", "bandersnatch")
    master = report.try_check(
        "mirror_upstream",
        lambda value: v.url(value, schemes=("https", "http"), path=True),
        config.get("upstream"),
    )
    if master and master.startswith("http://") and not allow_http:
        report.add("mirror_upstream", f"is {master}, without TLS", "https://, or allow_http: true")
    paths = config.get("paths")
    fetched = paths.get("fetched") if isinstance(paths, dict) else None
    directory = report.try_check("paths.fetched", _directory, fetched)
    chosen = selection(config.get("selection"), "mirror_selection", report)
    report.raise_if_any()
    mirror: dict[str, str | list[str]] = {
        "directory": directory,
        "master": master,
        "allow-non-https": "true" if master.startswith("http://") else "false",
        "json": "true",
        "release-files": "true",
        "hash-index": "false",
        # Our publisher writes the pages from the JSON; bandersnatch cannot be told to write none.
        "simple-format": "JSON",
        "digest_name": "sha256",
        "storage-backend": "filesystem",
        "stop-on-error": "false",
        "cleanup": "false",
        **tuning,
        **OWN_OPTIONS[major],
    }
    return {"mirror": mirror, **_filters(chosen or {})}


def _directory(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(?:/[A-Za-z0-9._-]+)+", value) or "/.." in value:
        raise BadValueError(f"is {v.shown(value)}", "an absolute path of letters, digits and . _ -")
    return value


def _filters(chosen: dict[str, Any]) -> Sections:
    """The plugins a selection needs, each by name (so that none runs by accident), and their settings.

    Those that keep bandersnatch within its tree are always there.
    """
    found: list[tuple[str, str, dict[str, str | list[str]]]] = []
    if chosen["projects"]:
        found.append(("allowlist_project", "allowlist", {"packages": chosen["projects"]}))
    if chosen["blocklist"]:
        found.append(("blocklist_project", "blocklist", {"packages": chosen["blocklist"]}))
    if chosen["platforms_excluded"]:
        excluded = {"excluded": chosen["platforms_excluded"]}
        found.append(("mirrorfleet_platforms", "mirrorfleet_platforms", excluded))
    if chosen["releases_kept"]:
        found.append(("mirrorfleet_newest", "mirrorfleet_newest", {"keep": str(chosen["releases_kept"])}))
    if chosen["max_project_size"]:
        size = {"max_package_size": str(chosen["max_project_size"])}
        found.append(("size_project_metadata", "size_project_metadata", {**size}))
    sections: Sections = {"plugins": {"enabled": [*GUARDS, *(plugin for plugin, _, _ in found)]}}
    for _, name, options in found:
        sections.setdefault(name, {}).update(options)
    return sections


class FilterModule:
    """From a mirror's configuration to bandersnatch's."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bandersnatch_config": as_filter(bandersnatch_config)}
