"""What bandersnatch does not fetch: project status (PEP 792) and provenance (PEP 740).

They are in upstream's PEP 691 page and not in the document that bandersnatch stores, so for each project
that changed the page is asked for once, and what it adds is stored beside the document.
"""

import asyncio
import json
import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.config import Config
from ..common.files import remove, write_atomically
from ..common.names import shown
from ..common.progress import Progress
from ..index.project import STATUSES, Project, clean_text, clean_url
from .upstream import SIMPLE_JSON, AbsentError, FetchError, upstream

log = logging.getLogger(__name__)


def extract(document: Any) -> dict[str, Any]:
    """The additions of a PEP 691 page; empty when there are none, as for most projects."""
    if not isinstance(document, dict):
        return {}
    found: dict[str, Any] = {}
    status = document.get("project-status")
    if isinstance(status, dict) and status.get("status") in STATUSES and status["status"] != "active":
        found["status"] = status["status"]
        found["reason"] = clean_text(status.get("reason"))
    files = document.get("files")
    if files == []:
        # All releases were deleted; the document may be gone as well, and then nobody else says so.
        found["emptied"] = True
    if found:
        meta = document.get("meta")
        serial = meta.get("_last-serial") if isinstance(meta, dict) else None
        found["serial"] = serial if type(serial) is int else 0
    provenance = {
        entry["filename"]: url
        for entry in (files if isinstance(files, list) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("filename"), str)
        and (url := clean_url(entry.get("provenance")))
    }
    if provenance:
        found["provenance"] = provenance
    return found


def empties(additions: dict[str, Any]) -> bool:
    """Whether nothing of a project may be served, whatever its document names."""
    return additions.get("status") == "quarantined" or bool(additions.get("emptied"))


def apply(project: Project, additions: dict[str, Any]) -> Project:
    provenance = additions.get("provenance", {})
    files = tuple(replace(f, provenance=provenance.get(f.filename, f.provenance)) for f in project.files)
    status = additions.get("status", project.status)
    return replace(
        project,
        files=() if empties(additions) else files,
        status=status,
        serial=max(project.serial, additions.get("serial", 0)),
        status_reason=additions.get("reason", project.status_reason),
    )


async def fetch(config: Config, names: Collection[str], directory: Path, progress: Progress) -> list[str]:
    """Store the additions of the named projects; returns those that could not be asked for."""
    directory.mkdir(parents=True, exist_ok=True)
    index = (config.index_url or "").rstrip("/")
    failed: list[str] = []
    progress.begin("status and provenance", len(names))
    async with upstream(workers=config.workers, timeout=config.timeout, tries=config.tries) as client:

        async def one(name: str) -> None:
            try:
                page = await client.page(f"{index}/{name}/", SIMPLE_JSON)
                additions = extract(page.json()) if page.content_type == SIMPLE_JSON else {}
            except AbsentError:
                additions = {}
            except FetchError as error:
                log.warning("status of %s: %s", name, shown(str(error)))
                failed.append(name)
                return
            finally:
                progress.step(name)
            if additions:
                write_atomically(directory / name, json.dumps(additions, sort_keys=True).encode())
            else:
                remove(directory / name)

        remaining = list(names)
        # In parts, so that hundreds of thousands of names are not as many tasks at once.
        while remaining:
            part, remaining = remaining[:1000], remaining[1000:]
            await asyncio.gather(*map(one, part))
    return failed
