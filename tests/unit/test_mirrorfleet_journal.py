"""The change journal: whole lines, rotation, generations."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfleet.served.journal import (
    BadJournalError,
    Head,
    Journal,
    Line,
    parse_head,
    read_lines,
    segment_name,
)

LINES = st.lists(st.tuples(st.sampled_from(["file", "page", "gone"]), st.text(), st.integers()), max_size=20)


def segments(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*.jsonl"))


def test_lines_are_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([("page", "six", "s-1-0"), ("gone", 'we"ird\n\u2028')])
    Journal(tmp_path).append([("root", "s-2-0")])
    lines, consumed, broken = read_lines((tmp_path / segment_name(1)).read_bytes())
    assert lines == [["page", "six", "s-1-0"], ["gone", 'we"ird\n\u2028'], ["root", "s-2-0"]]
    assert consumed == (tmp_path / segment_name(1)).stat().st_size
    assert broken == 0


@given(LINES, st.integers(0, 2000))
def test_a_reader_that_stops_anywhere_goes_on_where_it_stopped(lines: list[Line], cut: int) -> None:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    first, consumed, broken = read_lines(data[:cut])
    second, _, broken_later = read_lines(data[consumed:])
    assert [*first, *second] == [list(line) for line in lines]
    assert broken == broken_later == 0


@pytest.mark.parametrize("junk", [b"{", b"[]", b"{}", b"7", b'[7, "x"]', b"\xff\xfe", b"[" * 10_000, b""])
def test_a_line_that_is_none_is_counted_and_left_out(junk: bytes) -> None:
    lines, _, broken = read_lines(b'["page", "a", "b"]\n' + junk + b'\n["gone", "c"]\n')
    assert (lines, broken) == ([["page", "a", "b"], ["gone", "c"]], 1)


def test_a_line_cut_by_a_kill_is_ended_before_the_next_one(tmp_path: Path) -> None:
    Journal(tmp_path).append([("gone", "a")])
    with (tmp_path / segment_name(1)).open("ab") as stream:
        stream.write(b'["gone", "b')
    Journal(tmp_path).append([("gone", "c")])
    lines, _, broken = read_lines((tmp_path / segment_name(1)).read_bytes())
    assert (lines, broken) == ([["gone", "a"], ["gone", "c"]], 1)


def test_segments_rotate_and_the_oldest_leave(tmp_path: Path) -> None:
    for number in range(5):
        Journal(tmp_path, segment_bytes=1, segments_kept=3).append([("gone", str(number))])
    head = parse_head((tmp_path / "head.json").read_bytes())
    assert (head.oldest, head.newest) == (4, 6)
    assert segments(tmp_path) == [segment_name(number) for number in (4, 5, 6)]
    assert (tmp_path / segment_name(6)).read_bytes() == b""


def test_a_new_journal_is_another_generation(tmp_path: Path) -> None:
    first = Journal(tmp_path).head.generation
    assert Journal(tmp_path).head.generation == first
    (tmp_path / "head.json").unlink()
    assert Journal(tmp_path).head.generation != first
    assert segments(tmp_path) == [segment_name(1)]


def test_a_head_is_read_back() -> None:
    head = Head("0123abcd", 3, 9)
    assert parse_head(head.encode()) == head


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"schema": 2, "generation": "a", "oldest": 1, "newest": 1},
        {"schema": 1, "generation": "../a", "oldest": 1, "newest": 1},
        {"schema": 1, "generation": "a", "oldest": 2, "newest": 1},
        {"schema": 1, "generation": "a", "oldest": 0, "newest": 1},
        {"schema": 1, "generation": "a", "oldest": 1, "newest": 10**9},
        {"schema": 1, "generation": "a", "oldest": "x", "newest": 1},
    ],
)
def test_what_is_no_head_is_refused(document: Any) -> None:
    with pytest.raises(BadJournalError):
        parse_head(json.dumps(document).encode())
