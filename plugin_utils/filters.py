"""The door between Ansible and our pure functions.

Ansible hands filters tagged and lazy subclasses of str, int, dict and list. `plain` turns them into the builtin types
once, at the door, so that no check behind it can be fooled by (or leak) Ansible's own types. `trusted` is the way back.
"""

from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.template import trust_as_template
from jinja2 import Undefined

from plugin_utils.values import MAX_DEPTH, MAX_TEXT, MAX_VALUES, BadValueError, shown


def as_filter(function: Callable[..., Any], *, as_given: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function as Ansible calls it: arguments made plain first, every refusal an AnsibleFilterError.

    What is taken as given is a host's variables: lazy, and to template all of them would be slow and could fail for
    reasons that are none of ours.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise AnsibleFilterError(f"{error}; allowed: {function.__name__}{signature}") from error
        for name, value in bound.arguments.items():
            if name in as_given:
                continue
            try:
                bound.arguments[name] = plain(value)
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


def trusted(value: Any) -> Any:
    """What is ours, as templates."""
    if isinstance(value, dict):
        return {key: trusted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [trusted(one) for one in value]
    return trust_as_template(value) if isinstance(value, str) else value
