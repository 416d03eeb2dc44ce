"""The contract of an inventory: the shape of a record and of fleet.yml, by JSON Schemas, in words a person acts on.

The schemas (schemas/, published in docs/schemas for editors) say which keys there are, which are needed, types, ranges
and choices. A `format` there is a check below, which also gives the value its normal form. What one key asks of another
within a document is here, too; what hosts ask of each other is in rules.py.
"""

from __future__ import annotations

import copy
import datetime
import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import extend

from plugin_utils import inputs
from plugin_utils import values as v
from plugin_utils.documents import Place, dotted
from plugin_utils.values import BadValueError, Report

Check = Callable[[Any], Any]
SCHEMAS = Path(__file__).parent / "schemas"
RECORD, FLEET = "inventory-mirror", "inventory-fleet"

# Words that mirrorfleet.fetch.filters.is_excluded knows; of others some would be tags that no file has.
_PYTHONS = ("py2", *(f"py2.{n}" for n in range(4, 8)), "py3", *(f"py3.{n}" for n in range(15)))
_LINUX = (
    *("linux-i686", "linux-x86_64", "linux_armv6l", "linux_armv7l"),
    *("manylinux1_i686", "manylinux1_x86_64", "manylinux2010_i686", "manylinux2010_x86_64"),
    *(f"manylinux2014_{cpu}" for cpu in ("x86_64", "i686", "aarch64", "armv7l", "ppc64", "ppc64le", "s390x")),
)
_WINDOWS = ("win_amd64", "win-amd64", "win_arm64", "win-arm64")
PLATFORMS = ("windows", "macos", "freebsd", "linux", *_PYTHONS, *_WINDOWS, *_LINUX, "musllinux")

SELECTION_DEFAULTS: dict[str, Any] = {
    "everything": False,
    "projects": [],
    "blocklist": [],
    "releases_kept": None,
    "platforms_excluded": [],
    "max_project_size": None,
}
LONGEST_WINDOW = 92  # days: a mirror that is away for longer is drained


# ------------------------------------------------------------------------------------------- formats of single values
def public_url(value: Any) -> str:
    allowed = "https://NAME, nothing else in it: the fleet's hosts serve on port 443"
    try:
        url = v.url(value)
    except BadValueError as wrong:
        name = "DNS name" in wrong.allowed
        raise BadValueError(wrong.problem, wrong.allowed if name else allowed, wrong.next_step) from wrong
    if ":" in url.removeprefix("https://"):
        raise BadValueError(f"is {v.shown(value)}", allowed)
    return url


def site_url(value: Any) -> str:
    """The base URL of an index's site; its index page's URL is taken as well."""
    return v.url(value, schemes=("https", "http"), path=True).removesuffix("/simple")


def upstream(value: Any) -> str:
    if isinstance(value, str) and "://" in value:
        return site_url(value)
    return v.text(value, most=253)


def shared_key(value: Any) -> str:
    """The key of an external account binding (RFC 8555, 7.3.4). A secret: no message shows it."""
    allowed = "the key as the authority gave it: base64url (A-Z a-z 0-9 _ -), 22 characters or more"
    if not isinstance(value, str):
        raise BadValueError(f"is {v.kind(value)}, not text", allowed)
    if not re.fullmatch(r"[A-Za-z0-9_-]{22,1000}={0,2}", value):
        hint = "remove the line break at its end" if value != value.strip() else ""
        raise BadValueError("is no key in base64url (it is not shown, for it is a secret)", allowed, hint)
    return value


def version(value: Any) -> str:
    v.text(value, most=50)
    if not all(part.isalnum() and part.isascii() for part in value.replace("+", ".").split(".")):
        raise BadValueError(f"is {v.shown(value)}", "a version such as 8.2.0")
    return str(value)


def package_version(value: Any) -> str:
    """What apt takes for one: deb-version(7), with `*` for any rest."""
    v.text(value, most=100)
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~:*-]*", value):
        raise BadValueError(
            f"is {v.shown(value)}", "a version of Debian's package, or a pattern such as 1.26.*"
        )
    return str(value)


def open_port(value: Any) -> int | str:
    """A TCP port; or PORT/PROTOCOL, of which /tcp is the same as the number."""
    allowed = 'a TCP port from 1 to 65535, or text as "51820/udp"'
    port, _, protocol = value.partition("/") if isinstance(value, str) else (value, "", "tcp")
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else port
    if type(number) is not int or not 1 <= number <= 65535 or protocol not in ("tcp", "udp"):
        raise BadValueError(f"is {v.shown(value)}", allowed)
    return number if protocol == "tcp" else f"{number}/udp"


def local_path(value: Any) -> str:
    """A path of the control node; ~ is the coordinator's home."""
    path = v.text(value, most=4096)
    if not path.startswith(("/", "~/")) or ".." in path.split("/"):
        raise BadValueError(f"is {v.shown(value)}", "an absolute path, or one from your home: ~/…")
    return str(Path(path).expanduser())


def host_path(value: Any) -> str:
    path = v.text(value, most=4096)
    if not path.startswith("/") or {".", ".."} & set(path.split("/")):
        raise BadValueError(f"is {v.shown(value)}", "an absolute path on the host")
    return path


def certificate_file(value: Any) -> str:
    """A file of the control node, where this runs."""
    path = v.text(value, most=4096)
    allowed = "the absolute path of a PEM file with one CA certificate, on the control node"
    try:
        known = path.startswith("/") and "-----BEGIN CERTIFICATE-----" in Path(path).read_text("ascii")
    except (OSError, ValueError) as error:
        raise BadValueError(f"{v.shown(path)} cannot be read: {error}", allowed) from error
    if not known:
        raise BadValueError(f"is {v.shown(path)}", allowed)
    return path


_FORMATS: dict[str, Check] = {
    "line": v.text,
    "email": v.email,
    "page-url": lambda value: v.url(value, schemes=("https", "http"), path=True),
    "https-url": lambda value: v.url(value, path=True),
    "public-url": public_url,
    "site-url": site_url,
    "upstream": upstream,
    "address": v.address,
    "webhook": v.webhook,
    "project-name": v.project_name,
    "platform": v.choice(*PLATFORMS),
    "preferred-network": v.preferred_network,
    "network": v.network,
    "date": v.date,
    "moment": v.moment,
    "inventory-name": lambda value: v.text(value, most=253),
    "host-and-port": v.host_and_port,
    "password": v.password,
    "shared-key": shared_key,
    "version": version,
    "package-version": package_version,
    "local-path": local_path,
    "host-path": host_path,
    "open-port": open_port,
    "certificate-file": certificate_file,
}


# Each value is looked at twice: whether it is right, and what its normal form is.
FORMATS: dict[str, Check] = {
    name: functools.lru_cache(maxsize=65536)(check) if name != "certificate-file" else check
    for name, check in _FORMATS.items()
}


# -------------------------------------------------------------------------------------------------- shape by the schema
def _exactly_a_number(_: Any, value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_checker = FormatChecker(formats=())
for _name, _check in FORMATS.items():
    # A format speaks of text only; whatever else stands there is of a wrong type.
    _checker.checks(_name, raises=BadValueError)(
        lambda value, check=_check: not isinstance(value, str) or (check(value), True)[1]
    )
_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    # JSON Schema calls 1000.0 an integer; YAML's author wrote a number of another kind.
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": lambda _, value: type(value) is int, "number": _exactly_a_number}
    ),
)


@functools.cache
def _file(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
    return found


def _inlined(node: Any, name: str) -> Any:
    """The schema with what its $refs name in their place: nothing of ours refers to itself."""
    if isinstance(node, dict):
        if "$ref" in node:
            file, _, pointer = node["$ref"].partition("#/")
            name = file.removesuffix(".schema.json") or name
            found: Any = _file(name)
            for part in pointer.split("/"):
                found = found[part]
            return _inlined(found, name)
        return {key: _inlined(value, name) for key, value in node.items()}
    return [_inlined(entry, name) for entry in node] if isinstance(node, list) else node


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """A schema of ours, whole."""
    found: dict[str, Any] = _inlined(_file(name), name)
    return found


def _validator(shape: dict[str, Any]) -> Any:
    """A shape's validator, made once for the two that a thousand records are checked by."""
    known = _VALIDATORS.get(id(shape))
    if known is None:
        known = _Validator(shape, format_checker=_checker)
        if any(shape is schema(name) for name in (RECORD, FLEET)):
            _VALIDATORS[id(shape)] = known
    return known


_VALIDATORS: dict[int, Any] = {}


def keys(name: str) -> dict[str, dict[str, Any]]:
    """The keys that a document of this kind may have, each with its schema."""
    found: dict[str, dict[str, Any]] = schema(name)["properties"]
    return found


@functools.cache
def places() -> dict[str, str]:
    """By key, the file that it belongs into; of those that stand in one only."""
    found = {key: "fleet.yml" for key in keys(FLEET) if key.startswith(("fleet_", "private_"))}
    found |= {key: "mirrors/NAME.yml" for key in keys(RECORD) if key.startswith("mirror_")}
    for section in ("origins", "redirectors", "monitors", "clients"):
        for key in keys(FLEET)[section]["additionalProperties"]["properties"]:
            if key.startswith(section[:-1]):
                found[key] = f"fleet.yml, {section}: {{NAME: …}}"
    return found


def checked(values: dict[str, Any], shape: dict[str, Any], report: Report) -> dict[str, Any]:
    """The values that are right, in their normal form; what is wrong goes to the report."""
    wrong: set[Any] = set()
    for path in _templates(values, ()):
        wrong.add(path[0])
        report.add(
            dotted(path),
            "looks like a template",
            "plain data: nothing in this file is ever evaluated",
            "write the value out; a template belongs into the coordinator's group_vars/ or host_vars/",
            path,
        )
    told: set[tuple[Place, str]] = set()
    for error in sorted(_validator(shape).iter_errors(values), key=lambda one: list(map(str, one.path))):
        path = tuple(error.absolute_path)
        if path and path[0] in wrong and _is_template(error.instance):
            continue
        for where, problem, allowed, next_step in _problems(error, path, shape):
            if (where, problem) not in told:
                told.add((where, problem))
                wrong.add(where[0])
                file = report.document.file if report.document else report.host
                place = path if len(path) > len(where) else where
                report.add(dotted(where), problem, allowed, next_step.replace(" to IT", f" to {file}"), place)
    return {
        key: _normal(value, _property(shape, key), (key,), report)
        for key, value in values.items()
        if key not in wrong
    }


def one(key: str, value: Any, name: str, report: Report) -> Any:
    """One key of a document by itself, as when it is set elsewhere; None after noting what is wrong with it."""
    before = len(report.problems)
    shape = {"type": "object", "properties": {key: keys(name)[key]}}
    found = checked({key: value}, shape, report).get(key)
    if len(report.problems) == before and found and key in _MORE:
        found = _MORE[key](found, report)
    return found if len(report.problems) == before else None


def _property(shape: dict[str, Any], key: str) -> dict[str, Any]:
    more = shape.get("additionalProperties")
    found: dict[str, Any] = shape.get("properties", {}).get(key) or (more if isinstance(more, dict) else {})
    return found


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and re.search(r"\{\{|\{%|\{#", value) is not None


def _templates(node: Any, path: Place) -> Iterator[Place]:
    if _is_template(node):
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            if _is_template(key):
                yield (*path, key)
            yield from _templates(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _templates(value, (*path, index))


Problem = tuple[Place, str, str, str]  # where, what is wrong, what is allowed, what to do next


def _problems(error: Any, path: Place, top: dict[str, Any]) -> Iterator[Problem]:
    shape, value = error.schema, error.instance
    if error.validator == "required":
        # What is there by a wrong name is told as that.
        meant = {v.nearest(key, shape["properties"]) for key in value.keys() - shape["properties"].keys()}
        for missing in error.validator_value:
            if missing not in value and missing not in meant:
                allowed = (
                    _wanted(_property(shape, missing)) if shape is top or len(path) == 2 else _mapping(shape)
                )
                yield (*path, missing), "is missing", allowed, f"add {missing} to {dotted(path) or 'IT'}"
    elif error.validator == "additionalProperties":
        for extra in sorted(value.keys() - shape["properties"].keys()):
            near = v.nearest(extra, shape["properties"])
            hint = f"did you mean {near}?" if near else "" if path else _elsewhere(extra)
            if near in value:
                hint += " It stands here, too: remove one of the two"
            known = ", ".join(shape["properties"])
            yield (*path, extra), "is no known key", known if not path else _mapping(shape), hint
    elif error.validator == "propertyNames":
        allowed = (
            f"a mapping of {', '.join(error.parent.schema['propertyNames']['enum'])}" if error.parent else ""
        )
        yield path, f"has the key {v.shown(value)}", allowed, ""
    else:
        wrong = _refusal(shape, value)
        # Of a list of single values the list is told, with the entry's number; of a list of mappings the entry.
        if path and isinstance(path[-1], int) and shape.get("type") != "object":
            yield path[:-1], f"entry {path[-1] + 1}: {wrong.problem}", wrong.allowed, wrong.next_step
        else:
            yield path, wrong.problem, wrong.allowed, wrong.next_step


def _elsewhere(key: str) -> str:
    """Where a key belongs that this file does not have."""
    place = "the coordinator sets in group_vars/ or host_vars/"
    if key in places():
        return f"it belongs into {places()[key]}"
    if key.startswith("ansible_") or key in inputs.documented():
        return f"what is no key of this file, {place}"
    if inputs.role_of(key) and (meant := inputs.RENAMED.get(key) or inputs.near(key)):
        return f"did you mean {meant}? It is an input of a role, which {place}"
    return ""


def _wanted(shape: dict[str, Any]) -> str:
    """What should stand there, by an example or by the choices."""
    if "enum" in shape:
        return ", ".join(shape["enum"])
    return _example(shape["examples"][0]) if "examples" in shape else str(shape["description"])


def _mapping(shape: dict[str, Any]) -> str:
    return f"a mapping with the keys {', '.join(shape.get('properties', {}))}"


def _example(value: Any) -> str:
    """A value as one would write it: YAML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_example(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_example, value)) + "]"
    return (
        json.dumps(value)
        if isinstance(value, str) and re.match(r"[0-9]+[.-][0-9.*]+\Z", value)
        else str(value)
    )


def _refusal(shape: dict[str, Any], value: Any) -> BadValueError:
    """Why the schema refuses the value, in words."""
    try:
        _check_of(shape, value)(value)
    except BadValueError as wrong:
        return wrong
    return BadValueError(f"is {v.shown(value)}", shape.get("description", "what docs/inventory.md says"))


CHECK_OF_KIND: dict[str, Callable[[dict[str, Any]], Check]] = {
    "boolean": lambda _: v.boolean,
    "integer": lambda shape: v.whole(shape["minimum"], shape["maximum"]),
    "number": lambda shape: v.number(shape["minimum"], shape["maximum"]),
}


def _check_of(shape: dict[str, Any], value: Any) -> Check:
    kinds = shape.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if (isinstance(value, list) and "array" in kinds) or kinds == ["array"]:
        # The entries are told by themselves.
        return v.list_of(id, least=shape.get("minItems", 0), most=shape.get("maxItems", v.MAX_NAMES))
    choices = shape.get("enum") or ([shape["const"]] if "const" in shape else [])
    if "format" in shape or choices:
        return _FORMATS[shape["format"]] if "format" in shape else v.choice(*choices)
    for kind in kinds:
        if kind in CHECK_OF_KIND:
            return CHECK_OF_KIND[kind](shape)

    def refuse(value: Any) -> None:
        if isinstance(value, dict):
            raise BadValueError("is empty", "at least one entry")
        what = "" if shape.get("writeOnly") else f" ({v.shown(value)})"  # a secret is not shown
        raise BadValueError(f"is {v.kind(value)}{what}", _mapping(shape))

    return refuse


def _normal(value: Any, shape: dict[str, Any], place: Place, report: Report) -> Any:
    """A value of the right shape in its normal form. An entry that a list has twice by that is told."""
    if isinstance(value, dict):
        return {key: _normal(one, _property(shape, key), (*place, key), report) for key, one in value.items()}
    if isinstance(value, list):
        found = [
            _normal(one, shape.get("items", {}), (*place, index), report) for index, one in enumerate(value)
        ]
        if shape.get("items", {}).get("type") != "object":
            _tell_repeated(found, place, report)
        return found
    if isinstance(value, str) and "format" in shape:
        return FORMATS[shape["format"]](value)
    if shape.get("type") == "number":
        return float(value)
    return value


def _tell_repeated(entries: list[Any], place: Place, report: Report) -> None:
    seen: dict[Any, int] = {}
    for index, entry in enumerate(entries):
        if entry in seen:
            report.add(
                dotted(place),
                f"entry {index + 1} repeats entry {seen[entry] + 1} ({v.shown(entry)})",
                "each entry once",
                "remove one of the two",
                (*place, index),
            )
            return
        seen[entry] = index


# --------------------------------------------------------------------------------------- what keys ask of each other
def record(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """A mirror's record, as far as it is right by itself."""
    found = checked(values, schema(RECORD), report)
    for key in ("mirror_url", "mirror_address"):
        if isinstance(found.get(key), str):
            found[key] = [found[key]]
    if "mirror_selection" in found:
        found["mirror_selection"] = chosen_by(found["mirror_selection"], "mirror_selection", report)
    if "mirror_maintenance" in found:
        found["mirror_maintenance"] = _windows(
            found["mirror_maintenance"], values["mirror_maintenance"], report
        )
    return found


def fleet(values: dict[str, Any], report: Report) -> dict[str, Any]:
    """What fleet.yml says, as far as it is right by itself."""
    found = checked(values, schema(FLEET), report)
    if "fleet_selection" in found:
        found["fleet_selection"] = chosen_by(found["fleet_selection"], "fleet_selection", report)
    for key in found.keys() & _MORE.keys():
        found[key] = _MORE[key](found[key], report)
    for section in ("origins", "redirectors", "monitors", "clients"):
        for host in found.get(section, {}).values():
            lists = (f"{section[:-1]}_{what}" for what in ("url", "index_url", "address"))
            for key in host.keys() & set(lists):
                if isinstance(host[key], str):
                    host[key] = [host[key]]
    for name, host in found.get("redirectors", {}).items():
        if "redirector_selection" in host:
            key = f"redirectors.{name}.redirector_selection"
            host["redirector_selection"] = chosen_by(host["redirector_selection"], key, report)
    return found


def selection(value: Any, key: str, report: Report) -> dict[str, Any] | None:
    """What a mirror carries, with every key filled in; None after noting what is wrong with it."""
    before = len(report.problems)
    found = one("mirror_selection", value, RECORD, report)
    return chosen_by(found, key, report) if len(report.problems) == before else None


def chosen_by(value: dict[str, Any], key: str, report: Report) -> dict[str, Any] | None:
    """A selection of the right shape, with every key filled in; None after noting that it makes no sense."""
    before = len(report.problems)
    chosen: dict[str, Any] = copy.deepcopy(SELECTION_DEFAULTS) | value
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


def _windows(
    value: list[dict[str, Any]], written: list[dict[str, Any]], report: Report
) -> list[dict[str, Any]]:
    """Windows in which nobody is told what is wrong with a mirror."""
    windows = []
    for index, window in enumerate(value):
        if window["from"] < window["until"] <= window["from"] + datetime.timedelta(days=LONGEST_WINDOW):
            windows.append({name: window[name] for name in ("from", "until", "reason")})
        else:
            report.add(
                f"mirror_maintenance.{index + 1}.until",
                f"is {v.shown(written[index]['until'])}",
                f"a moment after from, at most {LONGEST_WINDOW} days later",
                path=("mirror_maintenance", index, "until"),
            )
    return windows


def _relay(value: dict[str, Any], report: Report) -> dict[str, Any] | None:
    """Where alerts are handed to be mailed. It may hold a password: no message shows it."""
    before = len(report.problems)
    found = {"starttls": True} | value
    if ("user" in value) != ("password" in value):
        report.add("fleet_mail_relay.user", "and password are not both given", "both, or none of them")
    if len(report.problems) == before and "user" in found and not found["starttls"]:
        report.add(
            "fleet_mail_relay.starttls",
            "is false, and the password would go over the wire in clear",
            "true with a user",
        )
    return found if len(report.problems) == before else None


def tls_needs(given: dict[str, Any], report: Report, path: Place = ()) -> None:
    """Notes what a host's certificate needs and nobody says, wherever it may be said; the path is where tls_mode is."""
    needed: dict[str, str] = {}
    if given.get("tls_mode") == "acme":
        needed = {"tls_acme_directory": "the https URL of an ACME server's directory (tls_mode acme)"}
        binding = {
            "tls_acme_eab_key_id": "the key id of the external account binding, with tls_acme_eab_hmac",
            "tls_acme_eab_hmac": "the key of the external account binding, with tls_acme_eab_key_id",
        }
        if binding.keys() & given.keys():
            needed |= binding
    elif given.get("tls_mode") == "provided":
        needed = {
            "tls_provided_certificate": "the certificate chain's path on the host (tls_mode provided)",
            "tls_provided_key": "the key's path on the host (tls_mode provided)",
        }
    told = {problem["key"] for problem in report.problems}
    for key, allowed in needed.items():
        if key not in given and key not in told:
            next_step = f"add {key} to the record, or to group_vars/ or host_vars/"
            report.add(key, "is missing", allowed, next_step, path)


def _monitor_settings(value: dict[str, Any], report: Report) -> dict[str, Any]:
    """Settings that have become keys of the fleet."""
    if "private_addresses" in value:
        report.add(
            "fleet_monitor_settings.private_addresses",
            "is no setting any more",
            "private_networks, a list of networks",
            "remove it, and name the networks in fleet.yml: private_networks: [10.0.0.0/8]",
        )
    return value


# What single keys ask beyond their shape.
_MORE: dict[str, Callable[[dict[str, Any], Report], dict[str, Any] | None]] = {
    "fleet_mail_relay": _relay,
    "fleet_monitor_settings": _monitor_settings,
}
