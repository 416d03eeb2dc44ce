"""A client that reads all the while: every page in every format, and every file it names by HEAD.

Run as a process: `python reader.py URL REPORT`. It writes its report when told to stop by SIGTERM. A page
is broken when it names a file that is not there with the right size, and still does when read again
unchanged; a page that changed meanwhile was merely read a while ago.
"""

import http.client
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

JSON_TYPE = "application/vnd.pypi.simple.v1+json"


class Reader:
    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=30)
        self.pages = 0
        self.files = 0
        self.broken: list[str] = []
        self.stopped = False

    def ask(self, method: str, path: str, accept: str = "*/*") -> tuple[int, int, bytes]:
        self.connection.request(method, path, headers={"Accept": accept})
        response = self.connection.getresponse()
        body = response.read()
        return response.status, int(response.headers.get("Content-Length", -1)), body

    def named(self, name: str) -> tuple[Any, dict[str, int | None]] | None:
        """The page's identity and every file that one of the three pages names, with its size if it says so."""
        status, _, simple = self.ask("GET", f"/simple/{name}/", JSON_TYPE)
        if status != 200:
            return None
        _, _, page = self.ask("GET", f"/simple/{name}/", "text/html")
        status, _, legacy = self.ask("GET", f"/pypi/{name}/json")
        files: dict[str, int | None] = {
            f"/{href.removeprefix('../../')}": None for href in re.findall(r'href="([^"#]+)#', page.decode())
        }
        for entry in json.loads(simple)["files"]:
            path = f"/{entry['url'].removeprefix('../../')}"
            files[path] = entry["size"]
            if entry["core-metadata"]:
                files[path + ".metadata"] = None
        if status == 200:
            for entries in json.loads(legacy)["releases"].values():
                files |= {entry["url"]: entry["size"] for entry in entries}
        return (simple, page, legacy), files

    def check(self, name: str) -> None:
        read = self.named(name)
        if read is None:
            return
        identity, files = read
        self.pages += 1
        for path, size in files.items():
            self.files += 1
            status, length, _ = self.ask("HEAD", path)
            if status != 200 or (size is not None and length != size):
                again = self.named(name)
                if again is not None and again[0] == identity:
                    self.broken.append(f"{name}: {path} is {status}, {length} bytes, not {size}")

    def run(self) -> None:
        while not self.stopped:
            status, _, root = self.ask("GET", "/simple/", JSON_TYPE)
            for project in json.loads(root)["projects"] if status == 200 else []:
                self.check(project["name"])


def main() -> None:
    reader = Reader(sys.argv[1])

    def stop(*_: object) -> None:
        reader.stopped = True

    signal.signal(signal.SIGTERM, stop)
    reader.run()
    report = {"pages": reader.pages, "files": reader.files, "broken": reader.broken}
    Path(sys.argv[2]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
