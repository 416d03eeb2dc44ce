"""What upstream says of one project, as one document in the legacy form.

Its page (PEP 691) decides which files there are, and everything that it says of them; the legacy document adds what a
page has not: the project's description, and which release a file is of. Of an index that has no such pages the legacy
document decides.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

from ..common.config import Config
from ..common.names import InvalidNameError, file_name, is_sha256, shown
from ..index.project import clean_text
from ..index.versions import newest_releases, release_among, spelled_alike
from .filters import kept_releases
from .upstream import SIMPLE_JSON, AbsentError, FetchError, Upstream

log = logging.getLogger(__name__)

Releases = dict[str, list[dict[str, Any]]]
_ACCEPT = f"{SIMPLE_JSON}, text/html;q=0.1"
# Not of what is to be served: each fetcher counts its own serials, and `urls` is said by `releases`.
_NOT_KEPT = ("last_serial", "urls", "left-out", "versions")
# Fields of a page's entry to those of a document's: where a page has them, it wins.
_FIELDS = {
    "size": "size",
    "requires-python": "requires_python",
    "upload-time": "upload_time_iso_8601",
    "provenance": "provenance",
    "dist-info-metadata": "core-metadata",  # the name that PEP 714 replaced, so the newer one comes last
    "core-metadata": "core-metadata",
}
# A page that has none of these says that there is none (PEP 691, 714, 740); size and upload time came later (PEP 700).
_SAID_BY_ABSENCE = frozenset({"requires_python", "core-metadata", "provenance"})


@dataclass(frozen=True)
class Said:
    document: dict[
        str, Any
    ]  # without serial; "left-out" names files that upstream lists and why they are not here
    serial: int | None  # up to which the page is, where it says so
    validator: str  # to ask for the page again only when it changed
    behind: bool  # the legacy document lacks what the page has: it is worth asking again


class LeftOut(dict[str, str]):
    """File names that upstream lists and that cannot be served, with the reason."""

    def add(self, name: str, filename: Any, reason: str) -> None:
        log.warning("project %s: %s is left out: %s", name, shown(filename), reason)
        self[shown(filename)] = reason


def page_releases(document: Any, url: str, name: str, left_out: LeftOut) -> Releases:
    """The files of a PEP 691 page as the releases of a legacy document."""
    if not isinstance(document, dict) or not isinstance(document.get("files"), list):
        raise FetchError(f"{url}: not a PEP 691 project page")
    releases: Releases = {}
    listed = document.get("versions")
    spelled = spelled_alike(listed if isinstance(listed, list) else [])
    for item in document["files"]:
        filename: Any = item.get("filename") if isinstance(item, dict) else item
        try:
            version = release_among(file_name(filename), name, spelled)
            entry = _entry(item, urljoin(url, item["url"]))
        except InvalidNameError:
            left_out.add(name, filename, "its name cannot be a file's on this host")
        except (AttributeError, TypeError, KeyError, ValueError):
            left_out.add(name, filename, "its entry is malformed")
        else:
            releases.setdefault(clean_text(version) or "0", []).append(entry)
    for version in spelled.values():
        releases.setdefault(version, [])
    return releases


def _entry(item: dict[str, Any], url: str) -> dict[str, Any]:
    filename, yanked = item["filename"], item.get("yanked", False)
    told = {ours: item[theirs] for theirs, ours in _FIELDS.items() if theirs in item}
    if isinstance(metadata := told.get("core-metadata"), dict):
        hashes = {kind: digest for kind, digest in metadata.items() if isinstance(digest, str)}
        told["core-metadata"] = _in_small_letters(hashes)
    return {
        "filename": filename,
        "url": url,
        "digests": _in_small_letters(item["hashes"]),
        "packagetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
        # An empty text is yanked without a reason, as PEP 592's bare attribute.
        "yanked": yanked is True or isinstance(yanked, str),
        "yanked_reason": (yanked or None) if isinstance(yanked, str) else None,
        **told,
    }


def _in_small_letters(digests: dict[str, str]) -> dict[str, str]:
    """Hexadecimal is of either case."""
    return {kind: digest.lower() for kind, digest in digests.items()}


def merged(legacy: dict[str, Any], simple: Releases) -> Releases:
    """The files that the page lists: with what only their legacy entries say, and the releases these are in."""
    listed = {entry["filename"]: entry for entries in simple.values() for entry in entries}
    releases: Releases = {version: [] for version, entries in simple.items() if not entries}
    for version, entries in legacy.items():
        if clean_text(version) != version:
            continue
        for entry in entries if isinstance(entries, list) else ():
            other = listed.pop(entry.get("filename"), None) if isinstance(entry, dict) else None
            if other:
                known = entry if _is_same(digests_of(entry), other["digests"]) else {}
                known = {key: value for key, value in known.items() if key not in _SAID_BY_ABSENCE}
                digests = {**digests_of(known), **other["digests"]}
                releases.setdefault(version, []).append({**known, **other, "digests": digests})
    for version, entries in simple.items():
        for entry in entries:
            if entry["filename"] in listed:
                releases.setdefault(version, []).append(entry)
    return releases


def _is_same(former: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the hashes can be of one file: a document behind its page may name the one that was replaced.

    Without a hash that both have nobody knows, and the page is believed alone, unless it has none at all.
    """
    shared = former.keys() & now.keys()
    return not now or (bool(shared) and all(former[kind] == now[kind] for kind in shared))


def entries_of(document: Any) -> Iterator[Any]:
    """The entries of a legacy document's files, whatever they are."""
    releases = document.get("releases") if isinstance(document, Mapping) else None
    for entries in releases.values() if isinstance(releases, dict) else ():
        yield from entries if isinstance(entries, list) else ()


def digests_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    digests = entry.get("digests")
    return digests if isinstance(digests, dict) else {}


def usable_entries(name: str, entries: Any, base: str, left_out: LeftOut) -> list[dict[str, Any]]:
    """The entries of a release that can be fetched, verified and stored, with absolute URLs."""
    usable = []
    for entry in entries if isinstance(entries, list) else ():
        filename: Any = entry.get("filename") if isinstance(entry, dict) else entry
        try:
            url = urljoin(base, entry["url"])
            sha256, size = digests_of(entry).get("sha256"), entry.get("size")
            file_name(filename)
        except InvalidNameError:
            left_out.add(name, filename, "its name cannot be a file's on this host")
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            left_out.add(name, filename, "its entry is malformed")
            continue
        if not url.startswith(("https://", "http://")):
            left_out.add(name, filename, "its URL is none of http")
        elif size is not None and (type(size) is not int or size < 0):
            left_out.add(name, filename, "its size is none")
        elif sha256 is not None and not is_sha256(str(sha256)):
            left_out.add(name, filename, "its sha256 is none")
        else:
            usable.append({**entry, "url": url, "size": size, "digests": digests_of(entry)})
    return usable


class Source:
    def __init__(self, config: Config, client: Upstream) -> None:
        assert config.index_url is not None
        self._selection = config.selection
        self._client = client
        self._index = config.index_url.rstrip("/")
        self._documents = f"{self._index.removesuffix('/simple')}/pypi"

    async def ask(self, name: str, stored: Any = None, validator: str = "") -> Said | None:
        """AbsentError where there is no such project; None where its page is still the one with this validator.

        `stored` is its legacy document, should it have been fetched already.
        """
        try:
            page = await self._client.changed_page(f"{self._index}/{name}/", _ACCEPT, validator)
        except AbsentError:
            said = await self._by_document(name)
            if said is None:
                raise
            return replace(said, behind=True)  # it may only be gone later than its page
        if page is None:
            return None
        if page.content_type != SIMPLE_JSON:
            said = await self._by_document(name)
            if said is None:
                raise FetchError(f"{page.url}: offers neither PEP 691 JSON nor /pypi/{name}/json")
            return said
        left_out = LeftOut()
        given = page.json()
        listed = page_releases(given, page.url, name, left_out)
        serial = _least(page.serial, _serial((given.get("meta") or {}).get("_last-serial")))
        legacy, behind = stored if _is_document(stored) else None, False
        if not _covers(legacy, listed, serial):
            try:
                legacy = await self._legacy(name)
                behind = legacy is not None and not _covers(legacy, listed, serial)
            except FetchError as error:
                log.info("project %s: its page speaks alone: %s", name, error)
                behind = True
        releases = listed if legacy is None else merged(legacy["releases"], listed)
        document = self._document(name, legacy, releases, left_out)
        if isinstance(versions := given.get("versions"), list) and versions and self._keeps_all():
            document["versions"] = sorted(spelled_alike(versions).values())
        status = given.get("project-status")
        if isinstance(status, dict) and status.get("status"):
            document["project-status"] = {"status": status["status"], "reason": status.get("reason")}
        return Said(document, serial, page.validator, behind)

    def _keeps_all(self) -> bool:
        return self._selection.releases_kept is None and not self._selection.platforms_excluded

    async def _by_document(self, name: str) -> Said | None:
        """Of an index, or a project, without a page for programs."""
        legacy = await self._legacy(name)
        if legacy is None:
            return None
        document = self._document(name, legacy, legacy["releases"], LeftOut())
        return Said(document, _serial(legacy.get("last_serial")), "", behind=False)

    async def _legacy(self, name: str) -> dict[str, Any] | None:
        try:
            page = await self._client.page(f"{self._documents}/{name}/json")
        except AbsentError:
            return None
        given = page.json()
        if not _is_document(given):
            raise FetchError(f"{page.url}: not a project document")
        return dict(given)

    def _document(
        self, name: str, legacy: dict[str, Any] | None, releases: Releases, left_out: LeftOut
    ) -> dict[str, Any]:
        """As it is to be served by this selection; the newest release that is kept speaks for the project."""
        usable: Releases = {}
        for version, entries in releases.items():
            found = usable_entries(name, entries, f"{self._index}/", left_out)
            usable.setdefault(clean_text(version) or "0", []).extend(found)
        document: dict[str, Any] = {"info": {"name": name, "version": ""}, "vulnerabilities": []}
        document |= {key: value for key, value in (legacy or {}).items() if key not in _NOT_KEPT}
        document["releases"] = kept = kept_releases(
            usable, self._selection.releases_kept, self._selection.platforms_excluded
        )
        info = document.get("info")
        if isinstance(info, dict) and info.get("version") not in kept:
            document["info"] = {**info, "version": next(iter(newest_releases(kept, 1)), "")}
        if left_out:
            document["left-out"] = dict(sorted(left_out.items()))
        return document


def _serial(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _least(*serials: int | None) -> int | None:
    return min((serial for serial in serials if serial is not None), default=None)


def _is_document(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("releases"), dict)


def _covers(legacy: dict[str, Any] | None, listed: Releases, serial: int | None) -> bool:
    """Whether a legacy document is as new as the page that lists these files, by its serial and by its files."""
    if legacy is None or (_serial(legacy.get("last_serial")) or 0) < (serial or 0):
        return False
    named = {entry.get("filename") for entry in entries_of(legacy) if isinstance(entry, dict)}
    return all(entry["filename"] in named for entries in listed.values() for entry in entries)
