"""Pages say what the project says, whatever it says: parse(render(x)) == x."""

import dataclasses
import gzip
import hashlib
import json
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfleet.index import pages
from mirrorfleet.index.project import UNKNOWN_TIME, File, Project, clean_url, parse_project

HASHES = st.binary(max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
# What the model lets through: no control characters but tab and line feed, nothing unencodable.
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], include_characters="\t\n<>&\"'{}%;`"),
    min_size=1,
)
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\\x85"),
    min_size=1,
    max_size=40,
).filter(lambda n: not n.startswith(".") and len(n.encode()) < 200)


def file(filename: str, sha256: str, core: str | None, **fields: Any) -> File:
    wheel = f"{filename}.whl"
    legacy = {"filename": wheel, "digests": {"sha256": sha256}, "md5_digest": "kept"}
    path = f"packages/{sha256[:2]}/{sha256[2:]}/{wheel}"
    return File(filename=wheel, path=path, sha256=sha256, core_metadata=core, legacy=legacy, **fields)


FILES = st.builds(
    file,
    filename=NAMES,
    sha256=HASHES,
    core=st.none() | HASHES,
    size=st.integers(0, 2**40),
    version=st.sampled_from(["1.0", "2.0rc1", "weird version"]),
    requires_python=st.none() | TEXTS,
    yanked=st.booleans() | TEXTS,
    upload_time=st.none() | st.just("2024-12-04T17:35:26.475808Z"),
    provenance=st.none() | st.just("https://upstream.test/provenance?a=1&b=2"),
)


@st.composite
def projects(draw: st.DrawFn) -> Project:
    files = draw(st.lists(FILES, max_size=4, unique_by=lambda f: f.filename))
    return Project(
        name="six",
        serial=draw(st.integers(0, 2**50)),
        files=tuple(sorted(files, key=lambda f: f.filename)),
        versions=tuple(sorted({f.version for f in files})),
        status=draw(st.sampled_from(["active", "archived", "deprecated"])),
        status_reason=draw(st.none() | TEXTS),
        legacy={"info": {"name": "six", "version": "1.0", "summary": draw(TEXTS)}},
    )


class Reader(HTMLParser):
    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.metas: dict[str, str | None] = {}
        self.anchors: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self._inside = False
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        assert len(values) == len(attrs)
        if tag == "meta":
            self.metas[str(values["name"])] = values["content"]
        if tag == "a":
            self.anchors.append(values)
            self.texts.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def read_html(page: bytes, project: Project) -> Project:
    reader = Reader(page)
    assert set(reader.tags) <= {"html", "head", "meta", "title", "body", "h1", "a", "br"}
    assert reader.metas["pypi:repository-version"] == pages.HTML_API_VERSION
    files = []
    for anchor, text in zip(reader.anchors, reader.texts, strict=True):
        url, _, fragment = str(anchor["href"]).partition("#")
        assert anchor.get("data-core-metadata") == anchor.get("data-dist-info-metadata")
        core = anchor.get("data-core-metadata")
        yanked = anchor.get("data-yanked", False)
        files.append(
            File(
                filename=text,
                path=unquote(url.removeprefix("../../")),
                size=-1,
                sha256=fragment.removeprefix("sha256="),
                version="",
                requires_python=anchor.get("data-requires-python"),
                yanked=True if yanked == "" else yanked if yanked is not None else "",
                core_metadata=core.removeprefix("sha256=") if core else None,
                provenance=anchor.get("data-provenance"),
            )
        )
    return dataclasses.replace(
        project,
        files=tuple(files),
        status=str(reader.metas["pypi:project-status"]),
        status_reason=reader.metas.get("pypi:project-status-reason"),
    )


@given(projects())
def test_html_gives_the_project_back(project: Project) -> None:
    # HTML carries neither size nor version nor time.
    shown = dataclasses.replace(
        project,
        files=tuple(dataclasses.replace(f, size=-1, version="", upload_time=None) for f in project.files),
    )
    assert read_html(pages.project_html(project), project) == shown


def read_json(page: bytes, versions: dict[str, str]) -> Project:
    document = json.loads(page)
    assert document["meta"]["api-version"] == pages.JSON_API_VERSION
    files = []
    for entry in document["files"]:
        assert entry.get("upload-time") != ""
        assert "dist-info-metadata" not in entry  # PEP 714
        core = entry["core-metadata"]
        files.append(
            File(
                filename=entry["filename"],
                path=unquote(entry["url"].removeprefix("../../")),
                size=entry["size"],
                sha256=entry["hashes"]["sha256"],
                version=versions[entry["filename"]],
                requires_python=entry["requires-python"],
                yanked=entry["yanked"],
                upload_time=entry.get("upload-time"),
                core_metadata=core["sha256"] if core else None,
                provenance=entry["provenance"],
            )
        )
    return Project(
        name=document["name"],
        serial=document["meta"]["_last-serial"],
        files=tuple(files),
        versions=tuple(document["versions"]),
        status=document["project-status"]["status"],
        status_reason=document["project-status"].get("reason"),
    )


@given(projects())
def test_json_gives_the_project_back(project: Project) -> None:
    versions = {f.filename: f.version for f in project.files}
    assert read_json(pages.project_json(project), versions) == project


@given(projects())
def test_the_legacy_document_gives_the_project_back(project: Project) -> None:
    document = json.loads(pages.project_legacy(project))
    assert parse_project(document, "six") == project
    for entries in document["releases"].values():
        for entry in entries:
            assert entry["url"].startswith("/packages/")
            assert entry["md5_digest"] == "kept"
            assert entry["upload_time_iso_8601"]  # bandersnatch cannot read an entry without


@given(projects())
def test_another_tier_renders_the_same_legacy_document(project: Project) -> None:
    first = pages.project_legacy(project)
    assert pages.project_legacy(parse_project(json.loads(first), "six")) == first


def test_an_unknown_upload_time_is_left_out_and_stays_unknown_in_the_next_tier() -> None:
    project = Project("six", 1, (file("six", "0" * 64, None, size=1, version="1.0"),), ("1.0",))
    assert "upload-time" not in json.loads(pages.project_json(project))["files"][0]
    legacy = json.loads(pages.project_legacy(project))
    assert legacy["releases"]["1.0"][0]["upload_time_iso_8601"] == UNKNOWN_TIME
    assert parse_project(legacy, "six").files[0].upload_time is None


@given(st.dictionaries(st.from_regex(r"\A[a-z0-9]+(-[a-z0-9]+)*\Z"), st.integers(0, 2**50), max_size=5))
def test_the_root_names_every_project_and_its_serial(serials: dict[str, int]) -> None:
    items = sorted(serials.items())
    document = json.loads(pages.root_json(items, 7))
    assert document["meta"]["_last-serial"] == 7
    assert {entry["name"]: entry["_last-serial"] for entry in document["projects"]} == serials
    reader = Reader(pages.root_html(name for name, _ in items))
    assert reader.texts == [name for name, _ in items]
    assert [anchor["href"] for anchor in reader.anchors] == [f"{name}/" for name, _ in items]


@given(st.binary())
def test_compressed_pages_are_the_same_bytes_each_time(data: bytes) -> None:
    assert gzip.decompress(pages.compressed(data)) == data
    assert pages.compressed(data) == pages.compressed(data)
    assert pages.compressed(data)[4:8] == b"\0\0\0\0"  # no time stamp


@pytest.mark.parametrize(
    ("constant", "changed"), [("HTML_API_VERSION", "html"), ("JSON_API_VERSION", "json")]
)
def test_each_form_says_its_own_version(monkeypatch: pytest.MonkeyPatch, constant: str, changed: str) -> None:
    """PEP 833: what comes to JSON does not come to HTML."""
    project = Project(name="six", serial=1, files=(), versions=())

    def rendered() -> dict[str, list[bytes]]:
        return {
            "html": [pages.project_html(project), pages.root_html(["six"])],
            "json": [pages.project_json(project), pages.root_json([("six", 1)], 1)],
        }

    former = rendered()
    monkeypatch.setattr(pages, constant, "1.9")
    now = rendered()
    assert {form for form in now if now[form] != former[form]} == {changed}
    assert all(b"1.9" in page for page in now[changed])


@pytest.mark.parametrize(
    ("given_url", "shown"),
    [
        ("https://index.test/integrity/x", True),
        ("https://index.test:8443/x?a=1&b=2", True),
        ("http://index.test/integrity/x", False),
        ("HTTP://index.test/x", False),
        ("//index.test/x", False),
        ("/integrity/x", False),
        ("javascript:alert(1)", False),
        ("https:///x", False),
        ("https://me:secret@index.test/x", False),
        ("https://index.test/x y", False),
        ('https://index.test/"x', False),
        (7, False),
    ],
)
def test_provenance_is_told_by_https_only(given_url: object, shown: bool) -> None:
    """PEP 740."""
    assert (clean_url(given_url) is not None) == shown
