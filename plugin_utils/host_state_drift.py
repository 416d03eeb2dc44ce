"""What follows from a declaration and what a host reports to differ from it. Nothing here does I/O."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re

from plugin_utils.host_state_declaration import (
    NOTIFYING,
    SECTIONS,
    Declaration,
    Drift,
    Item,
    check_unit,
    drifted,
)

LARGEST_DIFF = 100_000
UNIT_DIRECTORY = re.compile(r"/(etc|run|usr/lib|usr/local/lib|lib)/systemd/system/([^/]+?)(\.d/[^/]+)?")


def owed_handlers(declaration: Declaration, drift: Drift) -> dict[str, str]:
    """Handlers whose items differ, each with a path that is the reason."""
    owed: dict[str, str] = {}
    for title in NOTIFYING:
        for item in declaration.differing(title, drift):
            for handler in item["notify"]:
                owed.setdefault(handler, item["path"])
    return owed


def daemon_reload_is_due(drift: Drift) -> bool:
    return any(
        (entry["kind"] == "unit" and entry["what"] == "definition")
        or (entry["kind"] in {"file", "link", "absent"} and UNIT_DIRECTORY.fullmatch(entry["name"]))
        for entry in drift
    )


def masked_until_reboot(drift: Drift) -> list[str]:
    return [
        entry["name"] for entry in drift if entry["what"] == "masked" and entry["before"] == "until reboot"
    ]


def ruleset_is_due(declaration: Declaration, drift: Drift) -> bool:
    ruleset = declaration.firewall["path"] if declaration.firewall else None
    return ruleset is not None and bool(drifted(drift, "firewall") or ruleset in drifted(drift, "file"))


def unit_of(file_path: str) -> str | None:
    """The unit a file defines or extends; None for other files, and for a template without instance."""
    found = UNIT_DIRECTORY.fullmatch(file_path)
    if found is None or check_unit(found[2]) is not None or "@." in found[2]:
        return None
    return found[2]


def described(declaration: Declaration) -> Item:
    """What the host is asked to check: the declaration with digests in place of contents."""
    defined = {unit_of(item["path"]) for title in NOTIFYING for item in declaration[title]}
    request: Item = {title: declaration[title] for title in SECTIONS if title != "files"}
    request["files"] = [
        {key: item[key] for key in ("path", "owner", "group", "mode", "secret")}
        | {"sha256": hashlib.sha256(declaration.contents[item["path"]]).hexdigest()}
        for item in declaration["files"]
    ]
    request["unit_files"] = sorted(filter(None, defined - {item["name"] for item in declaration["units"]}))
    request["handlers"] = sorted(
        {handler for title in NOTIFYING for item in declaration[title] for handler in item["notify"]}
    )
    request["firewall"] = ruleset_of(declaration)
    return request


def ruleset_of(declaration: Declaration) -> Item | None:
    firewall = declaration.firewall
    return firewall and {
        "tables": firewall["tables"],
        "opens": firewall["opens"],
        "trial_seconds": firewall["trial_seconds"],
        "ruleset": declaration.contents[firewall["path"]].decode(),
    }


def to_write(declaration: Declaration, item: Item, drift: Drift) -> Item:
    """The content goes along only where it differs; elsewhere owner, group and mode are all there is to do."""
    rewrite = any(
        entry["kind"] == "file" and entry["name"] == item["path"] and entry["what"] in {"state", "content"}
        for entry in drift
    )
    content = base64.b64encode(declaration.contents[item["path"]]).decode() if rewrite else None
    shared = {key: item[key] for key in ("path", "owner", "group", "mode", "secret", "validate")}
    return shared | {"content": content}


def texts_of(declaration: Declaration, drift: Drift, found: dict[str, str]) -> dict[str, tuple[str, str]]:
    """The present and the declared text of each file whose content differs and may be shown."""
    missing = {entry["name"] for entry in drift if entry["kind"] == "file" and entry["what"] == "state"}
    return {
        path: (as_text(base64.b64decode(found.get(path, ""))), as_text(declaration.contents[path]))
        for item in declaration["files"]
        if not item["secret"] and ((path := item["path"]) in found or path in missing)
    }


def diff_of(drift: Drift, texts: dict[str, tuple[str, str]]) -> list[dict[str, str]]:
    """For each item an entry of its properties, and one of its text where that differs and may be shown."""
    grouped: dict[tuple[str, str], Drift] = {}
    for entry in drift:
        grouped.setdefault((entry["kind"], entry["name"]), []).append(entry)
    diffs: list[dict[str, str]] = []
    for (kind, name), entries in grouped.items():
        header = f"{kind} {name}"
        if kind == "firewall":
            diffs.append(
                diff_entry(f"{header} (live)", *(f"{entries[0][side]}\n" for side in ("before", "after")))
            )
            continue
        text = texts.get(name) if kind == "file" else None
        shown = [entry for entry in entries if text is None or entry["what"] != "content"]
        if shown:
            before, after = (
                "".join(f"{entry['what']}: {entry[side]}\n" for entry in shown)
                for side in ("before", "after")
            )
            diffs.append(diff_entry(header, before, after))
        if text is not None:
            diffs.append(diff_entry(f"{header} (content)", *text))
    return diffs


def diff_entry(header: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def as_text(content: bytes) -> str:
    with contextlib.suppress(UnicodeDecodeError):
        if len(content) <= LARGEST_DIFF:
            return content.decode()
    return f"(binary or large: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()})\n"


def in_words(entry: dict[str, str]) -> str:
    subject = f"{entry['kind']} {entry['name']}: {entry['what']}"
    if entry["kind"] == "firewall" and entry["what"] == "ruleset":
        return f"{subject} is not as declared"
    return f"{subject} is {entry['before']}, declared is {entry['after']}"
