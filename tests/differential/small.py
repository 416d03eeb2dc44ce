"""The small upstreams that made a mirror wrong once, after public reports of people who run mirrors, all in one.

Those that are about something else than what an index says are where that is tested: a web server's answers in
tests/unit/test_web_server_cache.py, `releases_kept` in tests/faults/test_left_out.py, local packages in
tests/unit/test_mirrorfleet_local.py, and serials that stand still in test_kinds.py.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, unquote

from differential.hostile import Upstream, metadata_of, sdist, sha256

LEGACY = {
    "17.1.0": "Twisted-17.1.0.tar.bz2",
    "17.2": "Twisted-17.2.tgz",
    "17.3": "Twisted-17.3.tar.xz",
    "17.4": "Twisted-17.4.tar.gz",
    "17.5-1": "Twisted-17.5-1.tar.gz",
    "16.0-beta": "Twisted-16.0-beta.tar.gz",
    "2004d": "Twisted-2004d.tar.gz",
    "15": "Twisted-15-py2.7.egg",
    "14": "Twisted-14.win32.exe",
}
ODD = [
    "foo 4.0.tar.gz", "foo-5.0é.zip", "foo-6.0#x.zip", "foo-7.0%41.zip", "foo-8.0?y.zip", "foo-9.0'\"<b>&.zip",
    "foo-10.0;v=1.zip", "foo,bar@11.0=(x).zip", "~foo-12.zip", "foo--13.zip", "foo-14.0.ZIP",
]  # fmt: skip
LENGTHS = (200, 235, 240, 244, 246, 247, 250, 255)
# Of the newest of two releases what a page of another server may say of it; None: nothing.
VALUES: dict[str, dict[str, Any]] = {
    "yanked-without-reason": {"yanked": ""},
    "yanked": {"yanked": True},
    "yanked-hostile": {"yanked": 'don\'t "use" <b>&amp; \r\n second\x00 line \u2028 '},
    "yanked-surrogate": {"yanked": "half a \ud800 character"},
    "says-little": {"size": None, "upload-time": None},
    "offset": {"upload-time": "2020-01-01T00:00:00+00:00"},
    "without-zone": {"upload-time": "2020-01-01T00:00:00"},
    "metadata-true": {"core-metadata": True},
    "requires-hostile": {"requires-python": ">=3.6, <4, !=3.0.* ; \"x\" & 'y' <b>\n\t>=2"},
    "requires-empty": {"requires-python": ""},
}

URLS = {
    "fragment": "{1}#sha256=0000",
    "query": "{1}?token=a%2Fb&x=1",
    "absolute": "{0}{1}",
    "relative": "../..{1}",
}
MADE, OTHER = (metadata_of("made-by-upstream", version) for version in "12")
# Core metadata that is given in the four states, None where none is announced, of files that stay the same.
METADATA: dict[str, tuple[bytes | None, ...]] = {
    "changes": (MADE, OTHER, MADE, OTHER),
    "comes": (None, MADE, OTHER, None),
    "goes": (MADE, None, OTHER, None),
    "returns": (MADE, None, MADE, OTHER),
}
CHANGING = ("quarantined", "archived", "unknown", "deleted", "emptied", "behind", "behind-and-older")


class Small(Upstream):
    """Its serials rise, and fall once, as of one that was restored from a backup."""

    def __init__(self) -> None:
        super().__init__(0, 0, "both", "rising")
        self.undocumented: set[str] = set()
        self.behind: set[str] = set()
        self.state, self.steps = 0, iter((self.worse, self.better, self.restored))
        for name in ("twisted", "twisted-undocumented"):
            for version, filename in LEGACY.items():
                self.listed(name, filename, version, sdist("Twisted", version))
        self.undocumented.add("twisted-undocumented")
        for version in ("1!2.0", "2.0+cu118"):
            self.release("foo", version)
        for filename in ODD:
            self.listed("foo", filename, "x", f"data {filename}".encode())
        for length in LENGTHS:
            version = "3." + "1" * (length - len("quiz-3..tar.gz"))
            self.listed("quiz", f"quiz-{version}.tar.gz", version, sdist("q", version))
        for name, values in VALUES.items():
            self.release(name, "1.0")
            told = self.release(name, "2.0", **values).entries[f"{name}-2.0-py3-none-any.whl"]
            for key in [key for key, value in values.items() if value is None]:
                del told[key]
        for name, written in URLS.items():
            entry = next(iter(self.release(name, "1.0").entries.values()))
            entry["url"] = written.format(self.url, entry["url"])
        (capitals,) = self.release("capitals", "1.0").entries.values()
        capitals["hashes"]["sha256"] = capitals["hashes"]["sha256"].upper()
        capitals["core-metadata"] = {"sha256": sha256(MADE).upper()}
        self.files[unquote(capitals["url"]) + ".metadata"] = MADE
        self.release("wrong-hash", "1.0", hashes={"sha256": "0" * 64})
        self.listed("empty-file", "empty_file-1.0.zip", "1.0", b"")
        for name in CHANGING:
            self.release(name, "1.0")
        for name in METADATA:
            self.listed(name, f"{name}-1.0.tar.gz", "1.0", sdist(name, "1.0"))
            self.release(name, "1.0")
        self.announce(0)

    def listed(self, name: str, filename: str, version: str, data: bytes) -> None:
        """A file of a project that `release` makes none of."""
        project = self.release(name, version)
        made = project.entries.pop(f"{name}-{version}-py3-none-any.whl")
        del project.versions[made["filename"]], project.sizes[made["filename"]]
        path = f"/packages/aa/cc/{filename}"
        self.files[path] = data
        told = {
            "filename": filename,
            "url": quote(path),
            "hashes": {"sha256": sha256(data)},
            "size": len(data),
        }
        project.entries[filename] = made | told
        project.versions[filename], project.sizes[filename] = version, len(data)

    def step(self) -> None:
        self.state += 1
        next(self.steps, lambda: None)()
        self.announce(self.state)

    def announce(self, state: int) -> None:
        for name, states in METADATA.items():
            project, given = self.projects[name], states[state] if state < len(states) else None
            project.serial = self._next()
            for entry in project.entries.values():
                entry["core-metadata"] = {"sha256": sha256(given)} if given else False
                if given:
                    self.files[unquote(entry["url"]) + ".metadata"] = given

    def worse(self) -> None:
        self.status("quarantined", "quarantined", "mal<ware>")
        self.undocumented.add("quarantined")
        self.status("archived", "archived", 'done\n"x"')
        self.status("unknown", "something-new")
        del self.projects["deleted"]
        self.empty("emptied")
        for name in ("behind", "behind-and-older"):
            self.release(name, "2.0")
        self.behind |= {"behind", "behind-and-older"}
        document = self.projects["behind"].former
        assert document is not None, "a release keeps the document of before"
        document["last_serial"] = self.projects["behind"].serial

    def better(self) -> None:
        self.behind.clear()
        self.status("quarantined", "active")
        self.undocumented.remove("quarantined")
        self.release("deleted", "9.0")
        self.release("emptied", "2.0")
        self.release("wrong-hash", "1.0")

    def restored(self) -> None:
        self.serial -= 500
        for project in self.projects.values():
            project.serial = self._next()
        self.release("foo", "3.0")

    def status(self, name: str, status: str, reason: str | None = None) -> None:
        project = self.projects[name]
        project.status, project.reason, project.serial = status, reason, self._next()

    def empty(self, name: str) -> None:
        project = self.projects[name]
        project.entries.clear()
        project.versions.clear()
        project.serial = self._next()

    def answer(self, path: str) -> tuple[int, str, bytes, int]:
        _, kind, name, *_ = [*path.split("/"), "", "", ""]
        if kind == "pypi" and name in self.undocumented:
            return 404, "text/plain", b"", 0
        if kind == "pypi" and name in self.behind:
            document = self.projects[name].former
            assert document is not None
            return 200, "application/json", json.dumps(document).encode(), document["last_serial"]
        return super().answer(path)
