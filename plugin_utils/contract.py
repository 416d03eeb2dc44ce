"""The parts of the inventory contract that more than one filter checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from plugin_utils import values as v
from plugin_utils.values import Report

Check = Callable[[Any], Any]
Schema = dict[str, Check]

# What bandersnatch's exclude_platform understands, by its major version; it ignores every other word.
_PYTHONS = ("py2", *(f"py2.{n}" for n in range(4, 8)), "py3", *(f"py3.{n}" for n in range(14)))
_LINUX = (
    *("linux-i686", "linux-x86_64", "linux_armv6l", "linux_armv7l"),
    *("manylinux1_i686", "manylinux1_x86_64", "manylinux2010_i686", "manylinux2010_x86_64"),
    *(f"manylinux2014_{cpu}" for cpu in ("x86_64", "i686", "aarch64", "armv7l", "ppc64", "ppc64le", "s390x")),
)
_PLATFORMS_6 = ("windows", "macos", "freebsd", "linux", *_PYTHONS, "win_amd64", "win-amd64", *_LINUX)
PLATFORMS: dict[str, tuple[str, ...]] = {
    "6": _PLATFORMS_6,
    "8": (*_PLATFORMS_6, "py3.14", "win_arm64", "win-arm64", "musllinux"),
}
ALL_PLATFORMS = tuple(dict.fromkeys(name for names in PLATFORMS.values() for name in names))


def optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def mapping(schema: Schema, required: Iterable[str] = ()) -> Callable[[Any, str, Report], Any]:
    """A check of a mapping that notes every problem of every key."""
    known = f"a mapping with the keys {', '.join(schema)}"

    def check(value: Any, key: str, report: Report) -> Any:
        if not isinstance(value, dict):
            report.add(key, f"is {v.kind(value)} ({v.shown(value)})", known)
            return None
        for name in sorted(value.keys() - schema.keys()):
            report.add(f"{key}.{v.shown(name)[1:-1]}", "is no known key", known, v.did_you_mean(name, schema))
        for name in required:
            if name not in value:
                report.add(f"{key}.{name}", "is missing", known)
        return {
            name: report.try_check(f"{key}.{name}", one, value[name])
            for name, one in schema.items()
            if name in value
        }

    return check


SELECTION_DEFAULTS: dict[str, Any] = {
    "everything": False,
    "projects": [],
    "blocklist": [],
    "releases_kept": None,
    "platforms_excluded": [],
    "max_project_size": None,
}


def selection(
    value: Any, key: str, report: Report, platforms: tuple[str, ...] = ALL_PLATFORMS
) -> dict[str, Any] | None:
    """What a mirror carries, with every key filled in; None after noting what is wrong with it."""
    schema: Schema = {
        "everything": v.boolean,
        "projects": v.list_of(v.project_name),
        "blocklist": v.list_of(v.project_name),
        "releases_kept": optional(v.whole(1, 1_000_000)),
        "platforms_excluded": v.list_of(v.choice(*platforms)),
        "max_project_size": optional(v.whole(1, 2**60)),
    }
    before = len(report.problems)
    found = mapping(schema)(value, key, report)
    if len(report.problems) > before:
        return None
    chosen: dict[str, Any] = SELECTION_DEFAULTS | found
    if not chosen["everything"] and not chosen["projects"]:
        report.add(
            key,
            "selects nothing",
            "projects: [names], or everything: true",
            "name the projects; only everything: true means everything",
        )
    if chosen["everything"] and chosen["projects"]:
        report.add(key, "says everything: true and names projects", "one of the two")
    if chosen["projects"] and chosen["max_project_size"] is not None:
        report.add(
            f"{key}.max_project_size",
            "has no effect on projects that are named: bandersnatch exempts them",
            "max_project_size only with everything: true",
        )
    for name in sorted(set(chosen["projects"]) & set(chosen["blocklist"])):
        report.add(
            f"{key}.blocklist", f"blocks {name}, which projects names", "each project in one of the two"
        )
    return chosen if len(report.problems) == before else None
