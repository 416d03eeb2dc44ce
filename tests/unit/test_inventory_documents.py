"""Plain YAML: what a record may be written in, what its scalars mean, and where each value stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin_utils import documents
from plugin_utils.documents import UnreadableError, parse


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-11-20", "2026-11-20"),
        ("2026-12-01T20:00:00+13:00", "2026-12-01T20:00:00+13:00"),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("-36.8", -36.8),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("1.26.*", "1.26.*"),
        ('"5"', "5"),
        ("'NO'", "NO"),
        ("=", "="),
        ("!", None),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(written: str, meant: Any) -> None:
    if written == "!":
        with pytest.raises(UnreadableError, match="tag"):
            parse("key: ! x")
        return
    assert parse(f"key: {written}").values == {"key": meant}
    assert type(parse(f"key: {written}").values["key"]) is type(meant)


@pytest.mark.parametrize(
    ("text", "problem", "line", "key"),
    [
        ("a: 1\nb: !unsafe x\n", "has the YAML tag '!unsafe'", 2, "b"),
        ("a: !!python/object/apply:os.system [x]\n", "has the YAML tag", 1, "a"),
        ("a: !vault |\n  x\n", "has the YAML tag '!vault'", 1, "a"),
        ("a: &x 1\n", "has the YAML anchor &x", 1, "a"),
        ("a: [1, *x]\n", "has the YAML alias *x", 1, "a.2"),
        ("a: {b: 1}\nc:\n  <<: {b: 1}\n", "has a YAML merge key (<<)", 3, "c"),
        ("a: 1\nb: 2\na: 3\n", "stands twice, also in line 1", 3, "a"),
        ("a: {b: 1, b: 2}\n", "stands twice", 1, "a.b"),
        ("a: 1\n---\nb: 2\n", "holds more than one document", 2, ""),
        ("a: [1\nb: 2\n", "is no YAML", 2, ""),
        ("a: 1\n b: 2\n", "is no YAML", 2, ""),
        ("- a\n", "holds no mapping at its top", 0, ""),
        ("1: a\n", "has the key '1', which is no text", 1, ""),
        ("? [a]\n: 1\n", "which is no text", 1, ""),
        ("a: \x07\n", "is no YAML", 0, ""),
        ("[" * 500, "nested too deeply", 1, None),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(
    text: str, problem: str, line: int, key: str | None
) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse(text)
    assert problem in caught.value.problem
    assert caught.value.line == line
    assert key is None or caught.value.key == key
    assert caught.value.problem.isprintable() and len(caught.value.problem) < 300


def test_aliases_that_repeat_themselves_are_refused_at_once() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
    )
    with pytest.raises(UnreadableError, match="anchor"):
        parse(bomb)


def test_an_empty_file_is_an_empty_mapping() -> None:
    for text in ("", "# nothing yet\n", "---\n", "null\n"):
        assert parse(text).values == {}


def test_every_value_knows_its_line() -> None:
    document = parse("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n")
    assert document.line(("a",)) == 1
    assert document.line(("b",)) == 2
    assert document.line(("b", 0)) == 3
    assert document.line(("b", 1, "d")) == 5
    assert document.line(("b", 1, "missing")) == 4
    assert document.line(("missing",)) == 0


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \xe9\n"])
def test_a_file_of_another_encoding_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yml").write_bytes(content)
    with pytest.raises(UnreadableError, match="UTF-8"):
        documents.read(tmp_path / "a.yml")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="cannot be read"):
        documents.read(tmp_path / "nowhere.yml")
    (tmp_path / "large.yml").write_text("a: " + "x" * documents.MAX_BYTES)
    with pytest.raises(UnreadableError, match="bytes"):
        documents.read(tmp_path / "large.yml")


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"]), max_size=12
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_json_is_read_as_json(value: dict[str, Any]) -> None:
    """JSON is YAML: whoever writes records by a program need not know more."""
    assert parse(json.dumps(value, ensure_ascii=False)).values == value


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.from_regex(r"[a-c]: [-!&*\[\]{}<>|\"'#@`,x1 \n:]{0,30}", fullmatch=True))
def test_no_text_does_more_than_be_read_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UnreadableError:
        return
    assert set(map(type, found.values)) <= {str}
    # What it takes, everybody else's YAML reads as the same structure.
    other = yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    assert set(found.values) == set(other if isinstance(other, dict) else {})
