"""Names from upstream never become paths outside their place."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfleet.common.names import (
    InvalidNameError,
    addressed_path,
    file_name,
    project_name,
    served_path,
    shown,
)


@pytest.mark.parametrize(
    ("raw", "name"),
    [("six", "six"), ("Flask", "flask"), ("zope.interface", "zope-interface"), ("a__b-.c", "a-b-c")],
)
def test_project_names_are_normalised(raw: str, name: str) -> None:
    assert project_name(raw) == name


@pytest.mark.parametrize(
    "raw",
    ["", ".", "..", "../six", "/six", "six/", "a\0b", "a b", "-a", "a-", "é", "x" * 5000, "six\n", "_root"],
)
def test_other_project_names_are_refused(raw: str) -> None:
    with pytest.raises(InvalidNameError):
        project_name(raw)


@pytest.mark.parametrize(
    "raw", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0", "a\n", "x" * 256, "x.whl.metadata", "\ud800"]
)
def test_file_names_are_refused(raw: str) -> None:
    with pytest.raises(InvalidNameError):
        file_name(raw)


@pytest.mark.parametrize(
    "url",
    [
        "https://files.test/packages/../../etc/passwd",
        "https://files.test/packages/%2e%2e/%2e%2e/etc/passwd",
        "https://files.test/packages/a/..%2fpasswd",
        "https://files.test/packages//passwd",
        "https://files.test/packages/\0/passwd",
        "https://files.test/packages/%00/passwd",
        "https://files.test/other/passwd",
        "/etc/passwd",
        "packages/passwd",
        "https://files.test/packages/" + "a/" * 5000 + "passwd",
        "https://files.test/packages/" + "x" * 5000 + "/passwd",
        "https://files.test/packages/aa/other",
        "https://files.test/packages/%ff/passwd",
        "https://[files.test/packages/aa/passwd",
    ],
)
def test_hostile_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidNameError):
        served_path(url, "passwd")


def test_a_url_keeps_its_path_below_packages() -> None:
    assert (
        served_path("https://files.test/packages/aa/bb/c%2Bc.whl?x=1#y", "c+c.whl")
        == "packages/aa/bb/c+c.whl"
    )
    assert served_path("/packages/aa/six.whl", "six.whl") == "packages/aa/six.whl"
    assert addressed_path("ab" * 32, "six.whl") == f"packages/ab/ab/{'ab' * 30}/six.whl"


@pytest.mark.parametrize("sha256", ["", "../../../etc", "ab" * 31, "AB" * 32])
def test_a_hash_that_is_none_becomes_no_path(sha256: str) -> None:
    with pytest.raises(InvalidNameError):
        addressed_path(sha256, "six.whl")


@given(st.text(max_size=60), st.text(max_size=20))
def test_whatever_is_accepted_stays_below_packages(path: str, filename: str) -> None:
    try:
        served = served_path(f"https://files.test/packages/{path}", filename)
    except InvalidNameError:
        return
    assert posixpath.normpath(served) == served
    assert served.startswith("packages/")
    assert "\0" not in served


@given(st.text())
def test_what_is_shown_is_one_short_printable_line(value: str) -> None:
    text = shown(value)
    assert text.isprintable()
    assert len(text) < 150


def test_what_is_nested_too_deep_to_be_written_is_said_to_be() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    assert shown(value) == "nested too deep"
