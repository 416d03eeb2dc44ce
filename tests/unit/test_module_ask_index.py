"""One redirector is asked for the one index by its own address, whatever the index's name leads to."""

from __future__ import annotations

import json
from typing import Any

import ask_index
import pytest

FILES = [{"filename": "six-1.tar.gz", "url": "../../packages/aa/six-1.tar.gz"}]
GOOD: dict[str, Any] = {
    "/simple/six/": (200, {"files": FILES}),
    "/packages/aa/six-1.tar.gz": (302, None),
    "/route?file=/packages/aa/six-1.tar.gz": (200, {"candidates": ["", "one", "two", ""]}),
}


@pytest.fixture
def ask(serve: Any, authority: Any) -> Any:
    def asked(**changes: Any) -> dict[str, Any]:
        answers = GOOD | {f"/{path}": answer for path, answer in changes.items()}

        def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
            status, found = answers[request.path]
            headers = {"Location": "https://one.fleet.test"} if status == 302 else {}
            return status, headers, b"" if request.method == "HEAD" else json.dumps(found).encode()

        # A name that leads nowhere.
        port = serve(answer, authority.issue("pypi.fleet.test"))
        return ask_index.result_of(
            {"url": f"https://pypi.fleet.test:{port}/simple/", "address": "127.0.0.1", "project": "six",
             "ca_path": str(authority.pem), "mirror": None}
        )  # fmt: skip

    return asked


def test_a_page_a_file_and_a_route_of_the_host_that_is_meant(ask: Any) -> None:
    assert ask() == {"file": "/packages/aa/six-1.tar.gz", "candidates": ["one", "two"]}
    assert ask(**{"packages/aa/six-1.tar.gz": (200, None)})["candidates"] == ["one", "two"]


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        ("simple/six/", (502, {}), "/simple/six/: it answers 502"),
        ("simple/six/", (200, {"files": []}), "/simple/six/: it has no file"),
        ("simple/six/", (200, [7]), "no list of files"),
        ("packages/aa/six-1.tar.gz", (404, {}), "six-1.tar.gz: it answers 404"),
        ("route?file=/packages/aa/six-1.tar.gz", (404, {}), "it answers 404"),
        ("route?file=/packages/aa/six-1.tar.gz", (200, {"candidates": 7}), "no list of candidates"),
    ],
)
def test_what_does_not_answer_as_it_has_to_is_told(ask: Any, path: str, answer: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", "[?]")):
        ask(**{path: answer})


@pytest.mark.parametrize(
    ("over", "families", "found"),
    [
        # By family whom one gets who prefers it, and whom anybody.
        (
            {"192.0.2.1": ("two", "two"), "2001:db8::1": ("one", "two")},
            ["ipv4", "ipv6"],
            ("ipv6", "ipv4 ipv6"),
        ),
        ({"192.0.2.1": ("two", "two"), "2001:db8::1": ("", "")}, ["ipv4", "ipv6"], ("", "ipv4")),
        ({"192.0.2.1": ("two", "two"), "2001:db8::1": ("", "")}, ["ipv4"], ("", "ipv4")),
        ({"2001:db8::1": ("", "")}, ["ipv6"], ("", "ipv6")),
    ],
    ids=["over one", "an index without IPv6", "a mirror without IPv6", "nobody anywhere"],
)
def test_a_mirror_is_routed_over_a_family_where_a_client_who_prefers_it_gets_it(
    serve: Any, authority: Any, over: dict[str, tuple[str, str]], families: list[str], found: tuple[str, str]
) -> None:
    def answer(request: Any) -> tuple[int, dict[str, str], bytes]:
        path, _, client = request.path.partition("&address=")
        asked = {"/route?file=/prefer/one/packages/x": 0, "/route?file=/packages/x": 1}[path]
        return 200, {}, json.dumps({"candidates": ["", over[client][asked]]}).encode()

    url = f"https://localhost:{serve(answer, authority.issue('localhost'))}/simple/"
    asked = {
        "url": url,
        "address": "127.0.0.1",
        "mirror": "one",
        "families": families,
        "ca_path": str(authority.pem),
    }
    told = ask_index.result_of(asked)
    assert (" ".join(told["routed"]), " ".join(told["could"])) == found


def test_the_certificate_has_to_be_the_indexs_own(serve: Any, authority: Any) -> None:
    port = serve(lambda _: (200, {}, b""), authority.issue("other.fleet.test"))
    with pytest.raises(ValueError, match="certificate"):
        ask_index.result_of(
            {"url": f"https://pypi.fleet.test:{port}/simple/", "address": "127.0.0.1", "project": "six",
             "ca_path": str(authority.pem), "mirror": None}
        )  # fmt: skip
