"""Single values of an inventory, checked: each check returns the normalised value or raises BadValueError.

Shared by the plugins. It lies outside their folders because Ansible takes every Python file below a plugin folder for a
plugin of its own. Nothing here does I/O or knows Ansible.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

# A YAML alias costs its author one line and us a full copy: a few nested ones reach billions of values.
MAX_VALUES = 2_000_000
MAX_DEPTH = 32
MAX_TEXT = 1_000_000
MAX_NAMES = 200_000


class BadValueError(ValueError):
    """One value that breaks the contract: what is wrong, what is allowed, what to do."""

    def __init__(self, problem: str, allowed: str, next_step: str = "") -> None:
        super().__init__(f"{problem}; allowed: {allowed}" + (f"; next: {next_step}" if next_step else ""))
        self.problem = problem
        self.allowed = allowed
        self.next_step = next_step


@dataclass
class Report:
    """Collects every problem of one host, so that all are told at once."""

    host: str
    document: Any = None  # the Document that it speaks of, for file and line
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, key: str, problem: str, allowed: str, next_step: str = "", path: tuple[str | int, ...] = ()
    ) -> None:
        """Notes a problem; the path leads to the value's line where the key alone does not."""
        name = key.partition(".")[0]
        file, line = "", 0
        if self.document is not None:
            file, line = self.document.file, self.document.line(path or tuple(key.split(".")))
        self.problems.append(
            {
                "host": self.host,
                "file": file,
                "line": line,
                "key": key,
                "problem": problem,
                "allowed": allowed,
                "next_step": next_step or f"correct {name} {'in ' + file if file else 'of ' + self.host}",
            }
        )

    def try_check(self, key: str, check: Callable[[Any], Any], value: Any) -> Any:
        """The checked value, or None after noting the problem."""
        try:
            return check(value)
        except BadValueError as wrong:
            self.add(key, wrong.problem, wrong.allowed, wrong.next_step)
            return None

    def raise_if_any(self) -> None:
        if self.problems:
            raise BadValueError(
                "; ".join(f"{p['host']}: {p['key']}: {p['problem']}" for p in self.problems),
                "; ".join(dict.fromkeys(p["allowed"] for p in self.problems)),
                "; ".join(dict.fromkeys(p["next_step"] for p in self.problems)),
            )


def kind(value: Any) -> str:
    """What a plain value is, in words a person who writes YAML uses."""
    if value is None:
        return "nothing (null)"
    names: dict[type, str] = {
        bool: "true/false",
        str: "text",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "something else")


def shown(value: Any, limit: int = 60) -> str:
    """A value in an error message: ASCII only, on one line, bounded, and a URL in it without user and password."""
    text = re.sub(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@", r"\1", ascii(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """Of the known words the one that was meant, if one is near; never the word itself."""
    left = [one for one in known if one != word]
    plainly = {one.lower().replace("-", "_"): one for one in left}
    if (same := word.strip().lower().replace("-", "_")) in plainly:
        return plainly[same]
    return next(iter(difflib.get_close_matches(word, left, n=1, cutoff=0.75)), "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f"did you mean {near}?" if near else ""


# --- single values: each returns the normalised value or raises BadValueError ---


def text(value: Any, *, most: int = 200, allow_empty: bool = False) -> str:
    """Printable text of one line in any script, without control, format (bidi) or unassigned characters."""
    allowed = f"one line of printable text, at most {most} characters"
    if not isinstance(value, str):
        raise BadValueError(f"is {kind(value)}, not text", allowed, "put it in quotes")
    if len(value) > most:
        raise BadValueError(f"has {len(value)} characters", allowed)
    if not allow_empty and not value.strip():
        raise BadValueError("is empty", allowed)
    for character in value:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            raise BadValueError(
                f"contains the character U+{ord(character):04X}", allowed, "remove that character"
            )
    if value != value.strip():
        raise BadValueError("begins or ends with a blank", allowed, "remove the blank")
    return unicodedata.normalize("NFC", value)


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValueError(f"is {kind(value)} ({shown(value)})", "true or false, without quotes")
    return value


def choice(*options: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            hint = did_you_mean(value, options) if isinstance(value, str) else ""
            raise BadValueError(f"is {shown(value)}", ", ".join(options), hint)
        return value

    return check


def whole(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            quoted = isinstance(value, str) and re.fullmatch(r"[0-9]+", value)
            raise BadValueError(
                f"is {kind(value)} ({shown(value)})",
                f"a whole number from {least} to {most}",
                "remove the quotes" if quoted else "",
            )
        if not least <= value <= most:
            raise BadValueError(f"is {shown(value)}", f"a whole number from {least} to {most}")
        return value

    return check


def number(least: float, most: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(f"is {kind(value)} ({shown(value)})", f"a number from {least:g} to {most:g}")
        if not math.isfinite(value) or not least <= value <= most:
            raise BadValueError(f"is {shown(value)}", f"a number from {least:g} to {most:g}")
        return float(value)

    return check


def list_of(
    check: Callable[[Any], Any], *, most: int = MAX_NAMES, least: int = 0
) -> Callable[[Any], list[Any]]:
    """A list whose entries all pass the check, none twice."""

    def check_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise BadValueError(
                f"is {kind(value)} ({shown(value)})", "a list", "write one entry a line, each after '- '"
            )
        if not least <= len(value) <= most:
            raise BadValueError(f"has {len(value)} entries", f"{least} to {most} entries")
        seen: dict[Any, int] = {}
        for index, entry in enumerate(value):
            try:
                good = check(entry)
            except BadValueError as wrong:
                raise BadValueError(
                    f"entry {index + 1}: {wrong.problem}", wrong.allowed, wrong.next_step
                ) from wrong
            if good in seen:
                raise BadValueError(
                    f"entry {index + 1} repeats entry {seen[good] + 1} ({shown(good)})",
                    "each entry once",
                    "remove one of the two",
                )
            seen[good] = index
        return list(seen)

    return check_list


_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def host_name(value: Any) -> str:
    """A DNS name of at least two labels, lower case, other scripts as xn-- labels."""
    allowed = "a DNS name such as mirror.example.org (other scripts in their xn-- form)"
    if not isinstance(value, str):
        raise BadValueError(f"is {kind(value)}, not text", allowed)
    name = value.lower()
    if len(name) > 253 or not _HOST_NAME.fullmatch(name):
        raise BadValueError(f"is {shown(value)}", allowed)
    if re.fullmatch(r"[0-9]+", name.rsplit(".", 1)[1]):
        raise BadValueError(f"is the address {shown(value)}", allowed, "use the host's name")
    return name


def url(value: Any, *, schemes: tuple[str, ...] = ("https",), path: bool = False) -> str:
    """An absolute URL without user, query or fragment, without a trailing slash."""
    allowed = (
        f"{' or '.join(s + '://' for s in schemes)}NAME[:PORT]{'[/PATH]' if path else ''}, nothing else in it"
    )
    if not isinstance(value, str):
        raise BadValueError(f"is {kind(value)}, not text", allowed)
    if len(value) > 2000 or not re.fullmatch(r"[!-~]+", value):
        raise BadValueError(f"is {shown(value)}", allowed)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise BadValueError(f"is {shown(value)}", allowed) from error
    if parts.scheme not in schemes or not value.startswith(parts.scheme + "://"):
        raise BadValueError(f"is {shown(value)}", allowed)
    if "@" in parts.netloc:
        raise BadValueError(
            "carries a user name or password", allowed, "leave credentials out of the inventory's URLs"
        )
    if "?" in value or "#" in value:
        raise BadValueError(f"is {shown(value)}", allowed)
    name = host_name(parts.hostname or "")
    if parts.netloc.lower() not in {name, f"{name}:{port}"} or port == 0:
        raise BadValueError(f"is {shown(value)}", allowed)
    segments = parts.path.rstrip("/")
    if not path and parts.path not in {"", "/"}:
        raise BadValueError(
            f"has the path {shown(parts.path)}", allowed, "a mirror serves from the top of its name"
        )
    if not re.fullmatch(r"(?:/[A-Za-z0-9._~+-]+)*", segments) or {".", ".."} & set(segments.split("/")):
        raise BadValueError(f"has the path {shown(parts.path)}", allowed)
    default_port = {"https": 443, "http": 80, "rsync": 873}[parts.scheme]
    shown_port = "" if port in (None, default_port) else f":{port}"
    return f"{parts.scheme}://{name}{shown_port}{segments}"


def project_name(value: Any) -> str:
    """A project's name by the packaging standard, in its normalised form (PEP 503)."""
    if not isinstance(value, str) or len(value) > 200 or not _PROJECT.fullmatch(value):
        raise BadValueError(
            f"is {shown(value)}, no project name",
            "ASCII letters, digits, and . _ - between them (no version, no wildcard)",
        )
    return re.sub(r"[-_.]+", "-", value).lower()


def address(value: Any) -> str:
    """Where a host is reached: a DNS name, or an IPv4 or IPv6 address that others can reach."""
    allowed = "a DNS name such as mirror.example.org, or an address such as 192.0.2.10 or 2001:db8::10"
    if not isinstance(value, str):
        raise BadValueError(f"is {kind(value)}, not text", allowed)
    try:
        found = ipaddress.ip_address(value)
    except ValueError:
        try:
            return host_name(value)
        except BadValueError as error:
            raise BadValueError(f"is {shown(value)}", allowed) from error
    if found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified or "%" in value:
        raise BadValueError(f"is {shown(value)}, which leads nobody to the host", allowed)
    return str(found)


def network(value: Any) -> str:
    """An IPv4 or IPv6 network in canonical form."""
    allowed = "a network such as 192.0.2.0/24 or 2001:db8::/32"
    if not isinstance(value, str) or "%" in value:
        raise BadValueError(f"is {shown(value)}", allowed)
    try:
        found = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise BadValueError(f"is {shown(value)}", allowed) from error
    if found.network_address != ipaddress.ip_interface(value).ip:
        raise BadValueError(f"is {shown(value)}, which has host bits set", allowed, f"write {found}")
    return str(found)


def preferred_network(value: Any) -> str:
    """A network or autonomous system whose clients a mirror prefers."""
    if isinstance(value, str) and (matched := re.fullmatch(r"AS([1-9][0-9]{0,9})", value)):
        if int(matched[1]) < 2**32:
            return value
        raise BadValueError(f"is {shown(value)}", "AS1 to AS4294967295")
    found = ipaddress.ip_network(network(value))
    if found.prefixlen == 0 or found.is_multicast or found.is_loopback or found.is_link_local:
        raise BadValueError(
            f"is {shown(value)}", "networks of clients, not everything, loopback, link-local or multicast"
        )
    return str(found)


def date(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise BadValueError(f"is {shown(value)}", "a date such as 2026-11-20")
    try:
        datetime.date.fromisoformat(value)
    except ValueError as error:
        raise BadValueError(
            f"is {shown(value)}, which is in no calendar", "a date such as 2026-11-20"
        ) from error
    return value


def email(value: Any) -> str:
    if (
        not isinstance(value, str)
        or len(value) > 254
        or not re.fullmatch(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[^@]+", value)
    ):
        raise BadValueError(f"is {shown(value)}", "a mail address such as mirror@example.org")
    local, _, domain = value.partition("@")
    return f"{local}@{host_name(domain)}"


def moment(value: Any) -> datetime.datetime:
    """A moment in UTC, from ISO 8601 with its zone; YAML's own timestamps come as such text, too."""
    allowed = "ISO 8601 with its zone, such as 2026-12-01T20:00:00+13:00 or 2026-12-01T07:00:00Z"
    if not isinstance(value, str) or len(value) > 40 or not value.isascii():
        raise BadValueError(f"is {shown(value)}", allowed)
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError as error:
        raise BadValueError(f"is {shown(value)}", allowed) from error
    if found.tzinfo is None:
        raise BadValueError(f"is {shown(value)}, without a zone", allowed, "add Z for UTC, or an offset")
    if not 2000 <= found.year <= 2999:
        raise BadValueError(f"is {shown(value)}", f"{allowed}, of the years 2000 to 2999")
    return found.astimezone(datetime.UTC)


def host_and_port(value: Any) -> str:
    """HOST:PORT of a service; a name, an address or localhost."""
    allowed = "HOST:PORT such as relay.example.org:587, localhost:25 or [2001:db8::25]:25"
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise BadValueError(f"is {shown(value)}", allowed)
    try:
        if host.startswith("[") and host.endswith("]"):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{int(port)}"
        if re.fullmatch(r"[0-9.]+", host):
            return f"{ipaddress.IPv4Address(host)}:{int(port)}"
    except ValueError as error:
        raise BadValueError(f"is {shown(value)}", allowed) from error
    if host == "localhost":
        return f"localhost:{int(port)}"
    try:
        return f"{host_name(host)}:{int(port)}"
    except BadValueError as error:
        raise BadValueError(f"is {shown(value)}", allowed) from error


def password(value: Any) -> str:
    """A secret on one line: no message shows it."""
    allowed = "text of one line, at most 1000 characters"
    if not isinstance(value, str):
        raise BadValueError(f"is {kind(value)}, not text", allowed, "put it in quotes")
    if not 0 < len(value) <= 1000 or not value.isprintable():
        hint = "remove the line break at its end" if value.strip() != value else ""
        raise BadValueError("is empty, too long, or has control characters (it is not shown)", allowed, hint)
    return value


def webhook(value: Any) -> str:
    """An https URL that is told of alerts. Who knows it can write there: no message shows it."""
    allowed = "https://NAME[:PORT]/PATH[?QUERY] in printable ASCII, without user or fragment"
    if not isinstance(value, str):
        raise BadValueError(f"is {kind(value)}, not text", allowed)
    place, _, query = value.partition("?")
    if len(value) > 2000 or not re.fullmatch(r"[A-Za-z0-9._~%/&=+:,;-]*", query):
        raise BadValueError("is no such URL (it is not shown, for it is a secret)", allowed)
    matched = re.fullmatch(r"(https://[^/@?#]+)(/[A-Za-z0-9._~%/+:,;=-]*)?", place)
    if not matched:
        raise BadValueError("is no such URL (it is not shown, for it is a secret)", allowed)
    try:
        base = url(matched[1])
    except BadValueError:
        raise BadValueError("is no such URL (it is not shown, for it is a secret)", allowed) from None
    return f"{base}{matched[2] or '/'}{'?' + query if query else ''}"
