"""Filters of ours that run within bandersnatch, by its entry points; it has another environment than our programs.

So what this imports, imports nothing but the standard library, packaging, and bandersnatch.
"""

from typing import Any

from bandersnatch.filter import (  # type: ignore[import-untyped]
    FilterReleaseFilePlugin,
    FilterReleasePlugin,
)

from ..index.versions import newest_releases
from .filters import is_excluded


class Platforms(FilterReleaseFilePlugin):  # type: ignore[misc]
    """Only files that `platforms_excluded` does not leave out. bandersnatch looks at these before it looks at releases.

    Its section of bandersnatch.conf has the key `excluded`, words of `filters.is_excluded`: without one `KeyError` or
    `ValueError` end bandersnatch before it fetches anything.
    """

    name = "mirrorfleet_platforms"

    def initialize_plugin(self) -> None:
        self._excluded = self.configuration[self.name]["excluded"].split()
        if not self._excluded:
            raise ValueError(f"[{self.name}] excluded = nothing")

    def filter(self, metadata: dict[str, Any]) -> bool:
        return not is_excluded(metadata["release_file"]["filename"], self._excluded)


class NewestReleases(FilterReleasePlugin):  # type: ignore[misc]
    """Only the newest releases of each project, by what `releases_kept` means everywhere.

    Its section of bandersnatch.conf has the key `keep`, at least 1: `KeyError` or `ValueError` end bandersnatch before
    it fetches anything.
    """

    name = "mirrorfleet_newest"

    def initialize_plugin(self) -> None:
        self._keep = int(self.configuration[self.name]["keep"])
        if self._keep < 1:
            raise ValueError(f"[{self.name}] keep = {self._keep}, allowed is 1 or more")
        self._releases: dict[str, list[dict[str, Any]]] = {}
        self._newest: set[str] = set()

    def filter(self, metadata: dict[str, Any]) -> bool:
        """Whether a release stays; bandersnatch asks for one after the other, and takes out those that do not."""
        if metadata["releases"] is not self._releases:
            self._releases = metadata["releases"]
            self._newest = newest_releases(self._releases, self._keep)
        return metadata["version"] in self._newest
