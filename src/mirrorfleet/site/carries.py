"""What a mirror has, in words, as far as the registry knows it."""

from typing import Any


def carried(record: dict[str, Any]) -> str:
    """In a word or two; nothing when the registry is of before."""
    if "projects" not in record:
        return ""
    if record["mode"] == "cache":
        return "on demand"
    count = record["projects"]
    return "everything" if count is None else "1 project" if count == 1 else f"{count} projects"


def left_out(record: dict[str, Any]) -> str:
    """What is missing of the projects that it carries; nothing when they are whole."""
    rules = record.get("left_out", {})
    told = []
    if kept := rules.get("releases_kept"):
        told.append("the newest release of each" if kept == 1 else f"the newest {kept} releases of each")
    if platforms := rules.get("platforms_excluded"):
        told.append(f"no wheels for {', '.join(platforms)}")
    if size := rules.get("max_project_size"):
        told.append(f"no project beyond {_size(size)}")
    if not told and record.get("partial"):
        told.append("without some releases, platforms or large projects")
    return ", ".join(told)


def _size(count: int) -> str:
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count} bytes"


def carries(record: dict[str, Any]) -> str:
    """In a sentence."""
    if "projects" not in record:
        return ""
    if record["mode"] == "cache":
        return "what was asked for; all else is fetched from upstream"
    count = record["projects"]
    text = "every project" if count is None else "one project" if count == 1 else f"{count} projects"
    if less := left_out(record):
        text += f", {less}"
    return text + ("; all else is passed on to upstream" if record.get("on_miss") == "pass" else "")
