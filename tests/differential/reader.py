"""What a client finds on an index, read by pypi-simple, which nobody here wrote. Runs in the clients' environment.

A line of standard input is {"url": …, "projects": […], "html": …, "fetch": …}; it is answered by one: of each project,
null where there is none, else its page, as JSON or as HTML, and where `fetch` is true of each file its bytes' hash.
"""

import contextlib
import hashlib
import json
import sys

import pypi_simple
import requests
import urllib3

# Of files nothing is wanted but their bytes, for which requests takes thrice as long.
POOL = urllib3.PoolManager(headers={"Accept-Encoding": "identity"}, timeout=30, retries=False)


def fetched(url):
    answer = POOL.request("GET", requests.utils.requote_uri(url))
    return hashlib.sha256(answer.data).hexdigest() if answer.status == 200 else f"HTTP {answer.status}"


def read(client, project, fetch):
    try:
        page = client.get_project_page(project)
    except pypi_simple.NoSuchProjectError:
        return None
    files = {}
    for package in page.packages:
        described = {
            "url": package.url.partition("#")[0],
            "bytes": fetched(package.url) if fetch else None,
            "hashes": {kind: digest.lower() for kind, digest in package.digests.items()},
            "requires_python": package.requires_python,
            "yanked": package.yanked_reason or "" if package.is_yanked else None,
            "size": package.size,
            "uploaded": package.upload_time and package.upload_time.isoformat(),
            "provenance": package.provenance_url,
            "metadata": None,
        }
        if package.has_metadata:
            described["metadata"] = fetch and fetched(package.metadata_url.partition("#")[0])
            described["metadata_hashes"] = package.metadata_digests or {}
        files[package.filename] = described
    return {
        "versions": sorted(page.versions or []),
        "status": page.status and page.status.value if hasattr(page.status, "value") else page.status,
        "reason": page.status_reason,
        "files": files,
    }


def main():
    for line in sys.stdin:
        asked = json.loads(line)
        accept = pypi_simple.ACCEPT_HTML_ONLY if asked["html"] else pypi_simple.ACCEPT_JSON_ONLY
        with pypi_simple.PyPISimple(asked["url"], accept=accept) as client:
            found = {}
            for project in asked["projects"]:
                try:
                    found[project] = read(client, project, asked["fetch"])
                except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                    found[project] = {"unreadable": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
