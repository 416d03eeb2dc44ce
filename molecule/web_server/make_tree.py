"""Two served trees by the real publisher, from projects made up here, and a certificate for both hosts.

Run as: make_tree.py FOLDER. The trees differ in one project each, so that each host lacks what the other has.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mirrorfleet.cli import main as mirrorfleet

HOUSE = Path(__file__).resolve().parents[2]
HOSTS = {"debian-13": "only-on-13", "debian-12": "only-on-12"}
SERIAL = 1000


def wheel(
    name: str, version: str, padding: int = 0, requires: Sequence[str] = (), description: str = ""
) -> tuple[str, bytes]:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    metadata += f"\n{description}" if description else ""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in {
            f"{module}/__init__.py": f"VERSION = {version!r}\n",
            f"{module}/padding.bin": "\0" * padding,
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{module}-{version}-py3-none-any.whl", content.getvalue()


def sdist(name: str, version: str) -> tuple[str, bytes]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        member = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return f"{name}-{version}.tar.gz", content.getvalue()


def fetch(fetched: Path, name: str, serial: int, files: list[tuple[str, str, bytes]]) -> None:
    """What `mirrorfleet dump` would have left of a project with these files (version, file name, content)."""
    releases: dict[str, list[dict[str, object]]] = {}
    for version, filename, content in files:
        blake = hashlib.blake2b(content, digest_size=32).hexdigest()
        path = f"packages/{blake[:2]}/{blake[2:4]}/{blake[4:]}/{filename}"
        target = fetched / "web" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        releases.setdefault(version, []).append(
            {
                "filename": filename,
                "url": f"https://files.fleet.test/{path}",
                "digests": {"sha256": hashlib.sha256(content).hexdigest(), "blake2b_256": blake},
                "size": len(content),
                "packagetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
                "upload_time_iso_8601": "2026-01-01T00:00:00.000000Z",
                "requires_python": ">=3.8",
                "yanked": False,
                "yanked_reason": None,
            }
        )
    version = max(releases)
    document = {
        "info": {"name": name, "version": version},
        "last_serial": serial,
        "releases": releases,
        "urls": releases[version],
    }
    path = fetched / "web/json" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def make_tree(folder: Path, host: str, projects: dict[str, list[tuple[str, str, bytes]]]) -> None:
    """The served tree of a host, as the publisher makes it: files (version, file name, content) by project."""
    work = folder / host
    fetched, served = work / "fetched", work / "served"
    for number, (name, files) in enumerate(projects.items()):
        fetch(fetched, name, SERIAL + number, files)
    config = work / "mirror.json"
    config.write_text(
        json.dumps(
            {
                "schema": 1,
                "name": host,
                "mode": "origin",
                "url": f"https://{host}.fleet.test",
                "index_url": "https://upstream.fleet.test/simple/",
                "selection": {"projects": list(projects)},
                "paths": {"fetched": str(fetched), "served": str(served), "state": str(work / "state")},
                "minimum_free_bytes": 0,
            }
        )
    )
    (work / "state").mkdir()
    if mirrorfleet(["publish", "--config", str(config)]) != 0:
        sys.exit("the publisher refused the test's own tree")
    (served / "last-modified").write_text("20260101T00:00:00\n")  # of a sync run, which there was none of
    with tarfile.open(folder / f"{host}.tar", "w") as archive:
        archive.add(served, "served")


def make_certificate(folder: Path, hosts: Iterable[str] = HOSTS) -> None:
    names = ",".join(f"DNS:{host}.fleet.test" for host in hosts) + ",DNS:mirror.fleet.test"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = ["-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=test CA"]
    leaf = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-keyout", "privkey.pem", "-out", "fullchain.pem"]
    extensions = [
        f"subjectAltName={names}",
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
    ]
    for arguments, added in (
        (authority, ["keyUsage=critical,keyCertSign,cRLSign"]),
        ([*leaf, "-subj", "/CN=mirror"], extensions),
    ):
        command = ["openssl", "req", "-x509", *key, *arguments]
        for extension in added:
            command += ["-addext", extension]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def make_pip(path: Path) -> None:
    """The tests' pinned pip as one file: the hosts have none. (That of .venv comes with the control node's Python, and
    may not know the hosts' newer one.)"""
    (source,) = HOUSE.glob("build/clients/lib/python*/site-packages/pip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                archive.write(file, file.relative_to(source.parent))


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sample = [
        ("1.0", *wheel("fleet-sample", "1.0")),
        ("1.1", *wheel("fleet-sample", "1.1")),
        ("1.1", *sdist("fleet-sample", "1.1")),
    ]
    for host, own_project in HOSTS.items():
        (folder / host).mkdir()
        # several slices of the cache
        own = [("2.0", *wheel(own_project, "2.0", padding=3_500_000))]
        make_tree(folder, host, {"fleet-sample": sample, own_project: own})
    make_certificate(folder)
    make_pip(folder / "pip.zip")


if __name__ == "__main__":
    main()
