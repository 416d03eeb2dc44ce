"""What pypi-simple finds on an index. Run as: read_index.py URL PROJECT..., in the environment of the clients.

Prints, for each format, the projects' names (null where the index lists none) and every file of the projects named. It
verifies each file and each metadata document against the hashes of the page, and fails where they differ.
"""

import json
import sys
import tempfile
from pathlib import Path

import pypi_simple
import requests

FORMATS = {"html": pypi_simple.ACCEPT_HTML_ONLY, "json": pypi_simple.ACCEPT_JSON_ONLY}


def read(client, project, folder):
    page = client.get_project_page(project)
    files = {}
    for package in page.packages:
        target = Path(folder) / package.filename
        client.download_package(package, path=target)
        metadata = client.get_package_metadata(package) if package.has_metadata else None
        files[package.filename] = {
            "sha256": package.digests["sha256"],
            "requires_python": package.requires_python,
            "yanked": package.is_yanked,
            "metadata": metadata,
        }
    return {
        "project": page.project,
        "api": page.repository_version,
        "serial": page.last_serial,
        "files": files,
    }


def main():
    url, *projects = sys.argv[1:]
    found = {}
    for name, accept in FORMATS.items():
        with pypi_simple.PyPISimple(url, accept=accept) as client, tempfile.TemporaryDirectory() as folder:
            try:
                listed = sorted(client.get_index_page().projects)
            except requests.HTTPError as error:
                if error.response.status_code != 404:
                    raise
                listed = None
            found[name] = {
                "listed": listed,
                "projects": {project: read(client, project, folder) for project in projects},
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
