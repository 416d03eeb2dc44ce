"""Where a mirror may differ from its upstream, each with its reason. Whatever else differs is a fault."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Files = dict[str, dict[str, Any]]
Choice = dict[str, Any]  # of chooser.py


def names_no_file_can_have(name: str, described: dict[str, Any]) -> bool:
    """A file system that we serve from takes 255 bytes and no slash; a leading dot is for what is not finished."""
    return (
        len(name.encode()) > 255
        or "/" in name
        or name.startswith(".")
        or bool(re.search(r"[\x00-\x1f\x7f\\]", name))
    )


def no_hash(name: str, described: dict[str, Any]) -> bool:
    """What calls itself a sha256 and is none can be verified by nobody; to have no hash at all is allowed (PEP 691)."""
    return not re.fullmatch(r"[0-9a-f]{64}", described["hashes"].get("sha256", "0" * 64))


LEFT_OUT = (names_no_file_can_have, no_hash)


def not_as_its_page_says(project: dict[str, Any] | None) -> bool:
    """One with a file that has another hash than its page says is not taken until it has: it is late, and counted."""
    files = project["files"].values() if project else ()
    return any(one["hashes"].get("sha256", one["bytes"]) != one["bytes"] for one in files)


LATE = (not_as_its_page_says,)


def text(value: str | None) -> str | None:
    """Control characters and halves of one (lone surrogates) cannot be written in HTML at all; an empty text says what
    no text says."""
    whole = (value or "").encode(errors="ignore").decode()
    clean = "".join(c for c in whole if c in "\t\n" or (ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F))
    return clean or None


def https_only(value: str | None) -> str | None:
    """Provenance over plain HTTP would prove nothing (PEP 740)."""
    return value if value and value.startswith("https://") else None


def moment(value: str | None) -> str | None:
    """The same moment, in UTC; a time that does not say where it is one is none (PEP 700)."""
    read = value and datetime.datetime.fromisoformat(value)
    return read.astimezone(datetime.UTC).isoformat() if read and read.tzinfo else None


def same_file(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between a file here and upstream."""
    expected = {
        "bytes": theirs["bytes"],
        # Of hashes the one is served that every reader knows, also where upstream has others or none.
        "hashes": {"sha256": theirs["bytes"]},
        "requires_python": text(theirs["requires_python"]),
        "yanked": theirs["yanked"] if theirs["yanked"] is None else text(theirs["yanked"]) or "",
        # Upstream may not say (PEP 691); here it is known (PEP 700).
        "size": theirs["size"] if theirs["size"] is not None else ours["size"],
        # A document behind its page may still say of the same bytes what the page does not any more.
        "uploaded": moment(theirs["uploaded"] or theirs.get("told")),
        "provenance": https_only(theirs["provenance"]),
    }
    found = {key: ours[key] for key in expected} | {"uploaded": moment(ours["uploaded"])}
    problems = [
        f"{key}: {found[key]!r}, upstream {expected[key]!r}"
        for key in expected
        if found[key] != expected[key]
    ]
    return problems + metadata_differs(name, theirs, ours)


def metadata_differs(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What is announced is there and right; upstream's own is passed on, where upstream gives what it announces."""
    problems = []
    if ours["metadata"] and ours["metadata"] != ours["metadata_hashes"].get("sha256"):
        problems.append(f"metadata: {ours['metadata']}, announced {ours['metadata_hashes']}")
    announced = (theirs.get("metadata_hashes") or {}).get("sha256", "").lower()
    # Without a hash it cannot be verified, and a wheel's own is served instead.
    can_be = len(f"{name}.metadata".encode()) <= 255
    if can_be and announced and theirs["metadata"] == announced and ours["metadata"] != announced:
        problems.append(f"metadata: {ours['metadata']}, upstream {announced}")
    return problems


def same_project(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    expected = {
        "versions": theirs["versions"],
        # To say nothing says active (PEP 792).
        "status": theirs["status"] or "active",
        "reason": text(theirs["reason"]),
    }
    return [
        f"{key} {ours[key]!r}, upstream {expected[key]!r}" for key in expected if ours[key] != expected[key]
    ]


def passed_on(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between a file of a cache, which passes on what upstream says and gives, and upstream's."""
    expected = theirs | {"url": ours["url"], "provenance": https_only(theirs["provenance"])}
    if expected[
        "yanked"
    ]:  # half a character is none in UTF-8, which all JSON is written in here (RFC 8259, 8.1)
        expected["yanked"] = re.sub("[\ud800-\udfff]", "\ufffd", expected["yanked"])
    expected.pop("told", None)
    if name.startswith("."):
        # Below packages/ it is hidden, by the rule for what is not finished in a tree.
        expected |= {key: ours[key] for key in ("bytes", "metadata") if ours[key] == "HTTP 404"}
    return [
        f"{key}: {ours[key]!r}, upstream {value!r}" for key, value in expected.items() if ours[key] != value
    ]


def project_passed_on(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    return [
        f"{key} {ours[key]!r}, upstream {theirs[key]!r}"
        for key in ("versions", "status", "reason")
        if ours[key] != theirs[key]
    ]


def unread(choice: Choice, files: Files, entries: Files) -> bool:
    """uv reads no page with null or no zone for an upload time, or with what is none for a sha256; here is none of
    them."""
    causes = (
        "invalid type: null, expected a timestamp",
        "failed to find offset component",
        "Invalid hash digest length",
    )
    return choice.get("refused", "").startswith(causes)


def half_a_character(choice: Choice, files: Files, entries: Files) -> bool:
    """uv reads no page with half a character (a lone surrogate); here is none of them, in a cache neither."""
    return choice.get("refused", "").startswith("unexpected end of hex escape")


def undated(choice: Choice, files: Files, entries: Files) -> bool:
    """pip keeps to no date where any file has none, also one that is left out here."""
    missing = any(
        one["uploaded"] is None and any(rule(name, one) for rule in LEFT_OUT) for name, one in files.items()
    )
    return missing and "upload-time" in choice.get("refused", "")


def left_out(choice: Choice, files: Files, entries: Files) -> bool:
    """What is left out here cannot be chosen here."""
    name = choice["file"]
    return name in files and any(rule(name, files[name]) for rule in LEFT_OUT)


def no_metadata(choice: Choice, files: Files, entries: Files) -> bool:
    """Upstream does not give the metadata that it announces; here it is not announced, or is the wheel's own."""
    entry = entries.get(choice["file"], {})
    announced = entry.get("core-metadata") or entry.get("dist-info-metadata")
    given = isinstance(announced, dict) and files[choice["file"]]["metadata"] == announced["sha256"]
    return "refused" in choice and bool(announced) and not given


def long_metadata(choice: Choice, files: Files, entries: Files) -> bool:
    """pip cannot write metadata whose name is longer than a file's may be; here it is not announced."""
    return "File name too long" in choice.get("refused", "")


def capitals(choice: Choice, files: Files, entries: Files) -> bool:
    """pip takes a hash in capitals for a wrong one; here it is written in small letters."""
    hashes = entries.get(choice["file"], {"hashes": {}})["hashes"].values()
    return "refused" in choice and any(digest != digest.lower() for digest in hashes)


def url_with_more(choice: Choice, files: Files, entries: Files) -> bool:
    """pip takes a URL's fragment for its hash, and appends to its query what metadata's path ends with."""
    return "refused" in choice and bool({"#", "?"} & set(entries.get(choice["file"], {"url": ""})["url"]))


def yanked_without_reason(choice: Choice, files: Files, entries: Files) -> bool:
    """pip takes an empty reason in JSON for no yank, and the bare attribute in HTML for one; it is one (PEP 592)."""
    return entries.get(choice["file"], {}).get("yanked") == ""


CHOICES = (
    unread,
    half_a_character,
    undated,
    left_out,
    no_metadata,
    long_metadata,
    capitals,
    url_with_more,
    yanked_without_reason,
)


def same_choice(theirs: Choice, ours: Choice, files: Files, entries: Files, rules: Rules) -> bool:
    """Whether a client chose the same of a project, whose files are these upstream, with these entries of its page."""
    if any(rule(theirs, files, entries) for rule in rules.choices):
        return True
    if rules is COPY and "hashes" in theirs:
        theirs = theirs | {"hashes": {"sha256": files[theirs["file"]]["bytes"]}}
    return ours == theirs


@dataclass(frozen=True)
class Rules:
    left_out: tuple[Callable[[str, dict[str, Any]], bool], ...]
    late: tuple[Callable[[dict[str, Any] | None], bool], ...]
    same_file: Callable[[str, dict[str, Any], dict[str, Any]], list[str]]
    same_project: Callable[[dict[str, Any], dict[str, Any]], list[str]]
    choices: tuple[Callable[[Choice, Files, Files], bool], ...]


COPY = Rules(LEFT_OUT, LATE, same_file, same_project, CHOICES)  # of a mirror that has a tree
CACHE = Rules((), (), passed_on, project_passed_on, (half_a_character,))
