"""Values that are safe in an nginx configuration."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.filters import as_filter
from plugin_utils.values import BadValueError


def nginx_quote(value: str | int) -> str:
    """One argument in double quotes. nginx has no escape for $, so a value with one cannot be made inert."""
    allowed = "text without control characters and without $"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadValueError(f"is {v.kind(value)}, not text", allowed)
    text = str(value)
    if len(text) > 3000:
        raise BadValueError(f"has {len(text)} characters", "at most 3000, or nginx's own buffer overflows")
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cs"} or character == "$":
            why = "nginx cannot quote a $: it would name a variable" if character == "$" else ""
            raise BadValueError(f"contains the character U+{ord(character):04X}", allowed, why)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def nginx_server_names(urls: str | list[str]) -> str:
    """The host names of URLs as server_name takes them, each once, in their order."""
    wanted = [urls] if isinstance(urls, str) else urls
    checked = v.list_of(lambda one: v.url(one, schemes=("https", "http"), path=True), least=1, most=100)(
        wanted
    )
    return " ".join(dict.fromkeys(url.split("/")[2].split(":")[0] for url in checked))


class FilterModule:
    """From values to nginx arguments."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"nginx_quote": as_filter(nginx_quote), "nginx_server_names": as_filter(nginx_server_names)}
