"""nginx arguments, read back by nginx's own configuration parser (crossplane) and by its rules of quoting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import crossplane  # type: ignore[import-untyped]
import pytest
from ansible.errors import AnsibleFilterError
from fleet_nginx import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st

QUOTE = FilterModule().filters()["nginx_quote"]
NAMES = FilterModule().filters()["nginx_server_names"]


def directives(text: str, tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "nginx.conf"
    path.write_text(text)
    payload = crossplane.parse(str(path), comments=True, check_ctx=False, check_args=False)
    assert payload["status"] == "ok", payload
    found: list[dict[str, Any]] = payload["config"][0]["parsed"]
    return found


def unquote(argument: str) -> str:
    """As ngx_conf_read_token does within double quotes: a backslash takes away itself before a quote or backslash."""
    result, rest = "", iter(argument)
    for character in rest:
        if character == "\\":
            following = next(rest)
            result += (
                following
                if following in "\"'\\"
                else {"t": "\t", "r": "\r", "n": "\n"}.get(following, "\\" + following)
            )
        else:
            result += character
    return result


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="\"'\\;{}#$ nrt\n\0", max_size=20))
def test_a_quoted_value_is_one_argument_with_that_value(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    try:
        quoted = QUOTE(value)
    except AnsibleFilterError:
        assert any(c == "$" or ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in value)
        return
    assert (quoted[0], quoted[-1]) == ('"', '"')
    assert unquote(quoted[1:-1]) == value
    found = directives(f"before 1;\nadd_header X {quoted};\nafter 1;\n", tmp_path_factory.mktemp("nginx"))
    assert [d["directive"] for d in found] == ["before", "add_header", "after"]
    assert len(found[1]["args"]) == 2


@pytest.mark.parametrize(
    "value", ["a$b", "a\nb", "a\0b", "\x1b[0m", "\x7f", "x" * 3001, None, True, 1.5, ["a"], {}]
)
def test_values_that_cannot_be_quoted(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="allowed"):
        QUOTE(value)


def test_a_number_is_quoted_too() -> None:
    assert QUOTE(443) == '"443"'


@pytest.mark.parametrize(
    ("urls", "names"),
    [
        ("https://One.example.org", "one.example.org"),
        (["https://b.example.org:8443/x", "https://a.example.org"], "b.example.org a.example.org"),
        (["https://a.example.org", "https://a.example.org:8443"], "a.example.org"),
        ("https://xn--kln-sna.example.org", "xn--kln-sna.example.org"),
    ],
)
def test_server_names(urls: Any, names: str, tmp_path: Path) -> None:
    assert NAMES(urls) == names
    (found,) = directives(f"server_name {NAMES(urls)};", tmp_path)
    assert found["args"] == names.split()


@pytest.mark.parametrize(
    "urls",
    [
        [],
        "one.example.org",
        "https://~^.*$",
        "https://*.example.org",
        "https://_",
        "https://a.example.org; } #",
        "https://köln.example.org",
        "https://[2001:db8::1]",
        "https://192.0.2.1",
        "https://localhost",
        None,
    ],
)
def test_names_that_nginx_would_read_otherwise(urls: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        NAMES(urls)
