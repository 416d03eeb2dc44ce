"""Is a mirror a conforming index? One mirror, in one family, at one project, asked as pip and uv ask."""

import hashlib
import html.parser
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from ..common.names import is_sha256
from .client import (
    HTML,
    HTML_V1,
    JSON_V1,
    PIP,
    PIP_FILE,
    UV,
    CheckError,
    Line,
    TamperedError,
    shown,
    stamp_of,
)
from .reference import File, clean, files_of
from .report import Report

ABSENT = "mirrorfleet-there-is-no-such-project-b1946ac92492"
ROOT_BYTES = 64 << 10
_chance = random.SystemRandom()


class Links(html.parser.HTMLParser):
    """What an HTML page says of files, by their names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.files: dict[str, dict[str, str | None]] = {}
        self.version: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "meta" and given.get("name") == "pypi:repository-version":
            self.version = given.get("content")
        if tag == "a" and given.get("href"):
            target = urlsplit(given["href"] or "")
            sha256 = (
                target.fragment.removeprefix("sha256=") if target.fragment.startswith("sha256=") else None
            )
            self.files[unquote(target.path).rpartition("/")[2]] = given | {"sha256": sha256}


class Conformance:
    """Checks that stand alone, each a rule; what one learns is there for those after it."""

    def __init__(self, line: Line, report: Report, family: str, record: dict[str, Any], project: str) -> None:
        self.line, self.report, self.family, self.record = line, report, family, record
        self.page = f"/simple/{project}/"
        self.project = project
        self.document: dict[str, Any] = {}
        self.files: list[File] = []
        self.links: dict[str, dict[str, str | None]] = {}
        self.html_version: str | None = None

    async def run(self) -> None:
        if not await self._rule("connection", self.line.connect):
            return
        if self.record["mode"] != "cache":
            await self._rule("last-modified", self._last_modified)
            await self._rule("root-page", self._root_page)
            await self._rule("legacy-json", self._legacy_json)
        checks: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("json-page", self._json_page), ("html-page", self._html_page), ("same-files", self._same_files),
            ("for-pip", self._for_pip), ("for-uv", self._for_uv), ("unknown-type", self._unknown_type),
            ("vary", self._vary), ("absent", self._absent), ("slash", self._slash), ("api-version", self._api_version),
            ("versions", self._versions), ("metadata", self._metadata), ("range", self._range),
        ]  # fmt: skip
        for name, check in checks:
            await self._rule(name, check)

    async def _rule(self, name: str, check: Callable[[], Awaitable[None]]) -> bool:
        try:
            await check()
        except CheckError as error:
            if isinstance(error, TamperedError):
                self.report.wrong.append(str(error))
            self.report.tell(name, False, str(error), self.family)
            return False
        self.report.tell(name, True, "", self.family)
        return True

    async def _last_modified(self) -> None:
        stamp_of((await self.line.ask("/last-modified", PIP_FILE, limit=100)).expect(200).body)

    async def _root_page(self) -> None:
        for kind in (JSON_V1, HTML):
            # Its beginning tells enough: it may list a million projects.
            answer = await self.line.ask("/simple/", PIP_FILE | {"Accept": kind}, limit=ROOT_BYTES)
            if not answer.expect(200, kind).body.strip():
                raise CheckError("/simple/ is empty")
            answer.expect_serial()

    async def _legacy_json(self) -> None:
        path = f"/pypi/{self.project}/json"
        answer = (await self.line.ask(path, PIP | {"Accept": "application/json"})).expect(
            200, "application/json"
        )
        answer.expect_serial()
        if not isinstance(answer.json().get("releases"), dict):
            raise CheckError(f"{path} has no releases")

    async def _json_page(self) -> None:
        answer = (await self.line.ask(self.page, PIP | {"Accept": JSON_V1})).expect(200, JSON_V1)
        self.document = answer.json()
        self.files = files_of(self.document, self.project, self.page, self.line.place.base)

    async def _html_page(self) -> None:
        answer = (await self.line.ask(self.page, PIP | {"Accept": HTML})).expect(200, HTML)
        found = Links(answer.content().decode("utf-8", "replace"))
        self.links, self.html_version = found.files, found.version
        for name, given in self.links.items():
            if not is_sha256(given["sha256"] or ""):
                raise CheckError(f"{self.page} links to {shown(name)} without sha256")

    async def _same_files(self) -> None:
        one = {file.name: file.sha256 for file in self.files}
        other = {name: given["sha256"] for name, given in self.links.items()}
        if different := sorted({name for name, _ in one.items() ^ other.items()}):
            raise CheckError(f"JSON and HTML differ in {shown(different[0])} and {len(different) - 1} more")
        for file in self.files:
            self._same_facts(file, self.links[file.name])

    def _same_facts(self, file: File, link: dict[str, str | None]) -> None:
        said: dict[str, tuple[Any, Any]] = {
            "requires-python": (file.requires_python, clean(link.get("data-requires-python"))),
            "yanked": (file.yanked, "data-yanked" in link),
        }
        promised = link.get("data-core-metadata") or link.get("data-dist-info-metadata") or ""
        if isinstance(file.metadata, str) and promised.startswith("sha256="):
            said["core metadata"] = file.metadata, promised.removeprefix("sha256=")
        for what, (here, there) in said.items():
            if here != there:
                told = f"{shown(here)} and {shown(there)}"
                raise CheckError(f"JSON and HTML differ in {what} of {shown(file.name)}: {told}")

    async def _for_pip(self) -> None:
        (await self.line.ask(self.page, PIP)).expect(200, JSON_V1)

    async def _for_uv(self) -> None:
        (await self.line.ask(self.page, UV)).expect(200, JSON_V1)

    async def _unknown_type(self) -> None:
        answer = await self.line.ask(self.page, PIP | {"Accept": "application/x-mirrorfleet-no-such-type"})
        if answer.status != 406:
            answer.expect(200, HTML, HTML_V1, JSON_V1)

    async def _vary(self) -> None:
        given = (await self.line.ask(self.page, PIP, method="HEAD")).headers.get("vary", "")
        if "accept" not in {word.strip().lower() for word in given.split(",")} and given.strip() != "*":
            raise CheckError(f"{self.page} has the header Vary: {shown(given)}, expected Accept")

    async def _absent(self) -> None:
        (await self.line.ask(f"/simple/{ABSENT}/", PIP)).expect(404)

    async def _slash(self) -> None:
        answer = await self.line.ask(self.page.rstrip("/"), PIP)
        if answer.status != 200:
            raise CheckError(
                f"{self.page.rstrip('/')} answered {answer.status}, expected a redirect to the page"
            )

    async def _api_version(self) -> None:
        meta = self.document.get("meta")
        for version in (
            meta.get("api-version") if isinstance(meta, dict) else None,
            self.html_version or "1.0",
        ):
            if not isinstance(version, str) or not re.fullmatch(r"1\.[0-9]{1,3}", version):
                raise CheckError(f"{self.page} states the version {shown(version)}, expected 1.x")

    async def _versions(self) -> None:
        meta = self.document.get("meta")
        version = str(meta.get("api-version")) if isinstance(meta, dict) else "1.0"
        if not re.fullmatch(r"1\.[0-9]{1,3}", version) or version == "1.0":
            return
        if not isinstance(self.document.get("versions"), list):
            raise CheckError(f"{self.page} has no list of versions")
        for entry, file in zip(self.document["files"], self.files, strict=True):
            if file.size is None:
                raise CheckError(f"{self.page} names {shown(file.name)} without its size")
            if "upload-time" in entry and not file.uploaded:
                raise CheckError(f"{self.page} names {shown(file.name)} with an upload time that is none")

    async def _metadata(self) -> None:
        promised = [file for file in self.files if file.metadata]
        for file in _chance.sample(promised, min(len(promised), 3)):
            answer = (await self.line.ask(f"{file.path}.metadata", PIP_FILE)).expect(200)
            got = hashlib.sha256(answer.body).hexdigest()
            if file.metadata is not True and got != file.metadata:
                raise TamperedError(
                    f"{file.path}.metadata has the sha256 {got}, its page says {file.metadata}"
                )

    async def _range(self) -> None:
        long = [file for file in self.files if file.size is None or file.size >= 10]
        if not long:
            return
        file = _chance.choice(long)
        part = (await self.line.ask(file.path, PIP_FILE | {"Range": "bytes=0-9"}, limit=100)).expect(206)
        if len(part.body) != 10 or not part.headers.get("content-range", "").startswith("bytes 0-9/"):
            given = shown(part.headers.get("content-range"))
            raise CheckError(f"{file.path} gave {len(part.body)} bytes ({given}) for a range of 10")
