"""Inputs of roles: which there are and what each may be, by the role's own meta/argument_specs.yml.

Roles check their inputs once more when they run. They are lenient (7 passes for a text, a text for a list), and late:
other hosts were changed by then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from plugin_utils import values as v
from plugin_utils.values import BadValueError, Report

Check = Callable[[Any], Any]
ROLES = Path(__file__).parents[1] / "roles"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What mirrors and the fleet's own sites share is the role nginx's.
RENAMED = {
    **{
        f"web_server_{one}": f"nginx_{one}"
        for one in (
            *("acme_webroot", "address_families", "certificate", "certificate_key", "hsts_max_age", "http3"),
            *("ocsp_stapling", "resolvers", "worker_connections"),
        )
    },
    "document_server_certificate": "nginx_certificate",
    "document_server_certificate_key": "nginx_certificate_key",
    "web_server_nginx_version": "nginx_version",
    "document_server_nginx_version": "nginx_version",
}


@functools.cache
def documented() -> dict[str, dict[str, Any]]:
    """Every input of every role, with its documentation."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        specs = yaml.load(path.read_text("utf-8"), Loader=LOADER)  # noqa: S506 -- a safe loader, and a file of ours
        found |= specs["argument_specs"]["main"]["options"]
    return found


@functools.cache
def _roles() -> list[str]:
    return sorted((path.parents[1].name for path in ROLES.glob("*/meta/argument_specs.yml")), key=len)


def role_of(key: str) -> str:
    """The role whose inputs begin as this name does, if there is one."""
    return next((role for role in reversed(_roles()) if key.startswith(f"{role}_")), "")


def near(key: str) -> str:
    """The input that was meant, if one is near; by its name of today."""
    meant = v.nearest(key, [*documented(), *RENAMED])
    return RENAMED.get(meant, meant)


def check(key: str, value: Any, report: Report) -> None:
    """Notes what is wrong with an input: that there is none of this name, or that this is no value for it."""
    if key not in documented():
        role, meant = role_of(key), RENAMED.get(key) or near(key)
        known = [one for one in documented() if one.startswith(f"{role}_")]
        report.add(
            key,
            f"is no input of the role {role}",
            ", ".join(known),
            f"did you mean {meant}?"
            if meant
            else f"remove it; what is yours begins with no role's name ({role}_)",
        )
        return
    option = documented()[key]
    try:
        check_of(option)(value)
    except BadValueError as wrong:
        secret = option.get("no_log")
        problem = "is no such value (it is not shown, for it is a secret)" if secret else wrong.problem
        report.add(key, problem, wrong.allowed, wrong.next_step)


def check_of(option: dict[str, Any]) -> Check:
    """The check of a value by its documentation (ansible-doc: type, elements, choices, options)."""
    kind = option.get("type", "str")
    if kind == "list":
        entry = check_of({**option, "type": option.get("elements", "raw")})
        return lambda value: _list(value, entry)
    if "choices" in option:
        return lambda value: _choice(value, option["choices"])
    if kind == "dict" and "options" in option:
        return lambda value: _mapping(value, option["options"])
    return _KINDS[kind]


def _list(value: Any, entry: Check) -> None:
    if not isinstance(value, list):
        v.list_of(entry)(value)  # which says so
    for index, one in enumerate(value):
        try:
            entry(one)
        except BadValueError as wrong:
            raise BadValueError(
                f"entry {index + 1}: {wrong.problem}", wrong.allowed, wrong.next_step
            ) from wrong


def _choice(value: Any, choices: list[Any]) -> None:
    if not any(value == one and type(value) is type(one) for one in choices):
        words = [str(one) for one in choices]
        hint = (
            ""
            if not isinstance(value, str)
            else "remove the quotes"
            if value in words
            else v.did_you_mean(value, words)
        )
        raise BadValueError(f"is {v.shown(value)}", ", ".join(words), hint)


def _of(kind: type | tuple[type, ...], allowed: str, hint: str = "") -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadValueError(f"is {v.kind(value)} ({v.shown(value)})", allowed, hint)

    return check


_KINDS: dict[str, Check] = {
    "str": _of(str, "text", "put it in quotes"),
    "path": _of(str, "a path", "put it in quotes"),
    "int": _of(int, "a whole number, without quotes"),
    "float": _of((int, float), "a number, without quotes"),
    "bool": v.boolean,
    "dict": _of(dict, "a mapping"),
    "raw": lambda _: None,
}


def _mapping(value: Any, options: dict[str, dict[str, Any]]) -> None:
    allowed = f"a mapping with the keys {', '.join(options)}"
    if not isinstance(value, dict):
        raise BadValueError(f"is {v.kind(value)} ({v.shown(value)})", allowed)
    for key in value.keys() - options.keys():
        raise BadValueError(
            f"has the key {v.shown(key)}", allowed, v.did_you_mean(str(key), _left(options, value))
        )
    for key, option in options.items():
        if key in value:
            try:
                check_of(option)(value[key])
            except BadValueError as wrong:
                raise BadValueError(f"{key}: {wrong.problem}", wrong.allowed, wrong.next_step) from wrong
        elif option.get("required"):
            raise BadValueError(f"lacks the key {key}", allowed, f"add {key}")


def _left(known: Iterable[str], given: Iterable[str]) -> list[str]:
    return [one for one in known if one not in set(given)]
