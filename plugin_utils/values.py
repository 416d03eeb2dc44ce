"""Values as they come from an inventory, made plain and checked.

Shared by the filter plugins. It lies outside filter_plugins/ because Ansible takes every Python file below
a plugin folder for a plugin of its own. Nothing here does I/O.

Ansible hands filters tagged and lazy subclasses of str, int, dict and list. `plain` turns them into the
builtin types once, at the door, so that no check below can be fooled by (or leak) Ansible's own types.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import inspect
import ipaddress
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleFilterError
from jinja2 import Undefined

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
    problems: list[dict[str, str]] = field(default_factory=list)

    def add(self, key: str, problem: str, allowed: str, next_step: str = "") -> None:
        name = key.partition(".")[0]
        where = "in group_vars/all" if name.startswith("fleet_") else f"of {self.host}"
        self.problems.append(
            {
                "host": self.host,
                "key": key,
                "problem": problem,
                "allowed": allowed,
                "next_step": next_step or f"correct {name} {where}",
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


INVENTORY_PREFIXES = ("mirror_", "origin_", "tls_", "fleet_", "redirector_url", "monitor_url")


def as_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as Ansible calls it: arguments made plain first, every refusal an AnsibleFilterError."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise AnsibleFilterError(f"{error}; allowed: {function.__name__}{signature}") from error
        for name, value in bound.arguments.items():
            make_plain = Inventory if name == "hostvars" else plain
            try:
                bound.arguments[name] = make_plain(value)
            except BadValueError as wrong:
                raise AnsibleFilterError(f"{name}: {wrong}") from wrong
        try:
            return function(*bound.args, **bound.kwargs)
        except BadValueError as wrong:
            raise AnsibleFilterError(str(wrong)) from wrong
        except (AttributeError, LookupError, TypeError) as error:
            # Filters take each other's results as they are; this is something else that was piped in.
            allowed = f"input as documented: ansible-doc -t filter {function.__name__}"
            raise AnsibleFilterError(
                f"the input is of another shape ({error!r}); allowed: {allowed}"
            ) from error

    return wrapped


@dataclass(frozen=True)
class HostValues:
    """What the inventory says of one host, as far as it concerns the fleet."""

    values: dict[str, Any]
    unreadable: dict[str, BadValueError]


class Inventory:
    """The fleet's variables of every host, each host read when it is first asked for.

    Only they are looked at: hostvars is lazy, and templating every variable of every host would be slow
    and would fail for reasons that are none of ours. A value that cannot be templated is kept as a problem.
    """

    def __init__(self, hostvars: Any) -> None:
        if not isinstance(hostvars, Mapping):
            raise BadValueError(f"is {kind(hostvars)}", "Ansible's hostvars")
        self._hostvars = hostvars
        self._read: dict[str, HostValues] = {}

    def __getitem__(self, host: str) -> HostValues:
        if host not in self._read:
            self._read[host] = self._values(host)
        return self._read[host]

    def _values(self, host: str) -> HostValues:
        found = HostValues({}, {})
        given = self._hostvars.get(host, {})
        if not isinstance(given, Mapping):
            raise BadValueError(f"hostvars of {shown(host)} is {kind(given)}", "Ansible's hostvars")
        for key in given:
            if isinstance(key, str) and key.startswith(INVENTORY_PREFIXES):
                try:
                    found.values[str.__str__(key)] = plain(given[key])
                except BadValueError as wrong:
                    found.unreadable[str.__str__(key)] = wrong
        return found


def plain(value: Any) -> Any:
    """A copy made of exact builtin JSON types; dates become ISO text. Bounded in size and depth."""
    left = MAX_VALUES

    def copy(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise BadValueError(
                "is too large or nested too deeply (YAML aliases that repeat themselves?)",
                f"at most {MAX_VALUES} values, {MAX_DEPTH} levels",
                "write the values out",
            )
        if item is None or type(item) in (bool, int, float):
            return item
        if isinstance(item, str):
            if len(item) > MAX_TEXT:
                raise BadValueError(f"is a text of {len(item)} characters", f"at most {MAX_TEXT} characters")
            return str.__str__(item)
        if isinstance(item, int | float):
            return int.__int__(item) if isinstance(item, int) else float.__float__(item)
        if isinstance(item, datetime.date):
            return item.isoformat()
        if isinstance(item, Mapping):
            return {key_of(key): copy(item[key], depth + 1) for key in item}
        if isinstance(item, Sequence) and not isinstance(item, bytes | bytearray):
            return [copy(entry, depth + 1) for entry in item]
        if isinstance(item, Undefined):
            why = item._undefined_message.removeprefix("A captured exception marker was tripped: ")
            raise BadValueError(
                f"cannot be evaluated: {shown(why, 300)}",
                "values whose templates all resolve",
            )
        raise BadValueError(
            "is of a type that neither YAML nor JSON has", "text, number, true/false, list, mapping"
        )

    def key_of(key: Any) -> str:
        if not isinstance(key, str):
            raise BadValueError(
                f"has the key {shown(key)}, which is no text", "text as keys, in quotes if need be"
            )
        return str.__str__(key)

    return copy(value, 0)


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
    """A value in an error message: ASCII only, on one line, bounded."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else ""


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
            raise BadValueError(
                f"is {kind(value)} ({shown(value)})", f"a whole number from {least} to {most}"
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
