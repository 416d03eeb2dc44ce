"""Filters of ours that run within bandersnatch, by its entry points; it has another environment than our programs.

So what this imports, imports nothing but the standard library, packaging, and bandersnatch.
"""

from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlparse

from bandersnatch.filter import (  # type: ignore[import-untyped]
    FilterProjectPlugin,
    FilterReleaseFilePlugin,
    FilterReleasePlugin,
)

from ..common.names import project_name, served_path
from ..index.versions import newest_releases
from .filters import is_excluded


class Names(FilterProjectPlugin):  # type: ignore[misc]
    """Only projects whose name is one (PEP 503): bandersnatch writes to a path of any, an absolute one as well."""

    name = "mirrorfleet_names"

    def filter(self, metadata: dict[str, Any]) -> bool:
        with suppress(ValueError, TypeError):
            return bool(project_name(metadata["info"]["name"]))
        return False


class Places(FilterReleaseFilePlugin):  # type: ignore[misc]
    """Only files that bandersnatch puts where they are served from: it writes to a URL's path, wherever that leads.

    The others are brought by `files.Files`, to a place of their own.
    """

    name = "mirrorfleet_places"

    def filter(self, metadata: dict[str, Any]) -> bool:
        file = metadata["release_file"]
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            return unquote(urlparse(file["url"]).path) == f"/{served_path(file['url'], file['filename'])}"
        return False


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
