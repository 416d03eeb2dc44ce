"""A served tree with a large and a small wheel, and registry, list and health of two mirrors that have the same.

Run as: make_fleet.py FOLDER HOST. The mirrors are other ports of the host itself.
"""

import hashlib
import io
import json
import random
import sys
import tarfile
import time
import zipfile
from pathlib import Path

MIRRORS = {"one": 8441, "two": 8442}
SIZES = {"big": 400_000, "little": 100}


def wheel(name: str) -> bytes:
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.bin": random.Random(name).randbytes(SIZES[name]),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return made.getvalue()


def publish(tree: Path, name: str) -> None:
    content, filename = wheel(name), f"{name}-1.0-py3-none-any.whl"
    path = tree / f"packages/ab/cd/{filename}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    metadata = zipfile.ZipFile(io.BytesIO(content)).read(f"{name}-1.0.dist-info/METADATA")
    path.with_name(f"{filename}.metadata").write_bytes(metadata)
    digest = hashlib.sha256(content).hexdigest()
    core = {"sha256": hashlib.sha256(metadata).hexdigest()}
    url = f"../../packages/ab/cd/{filename}"
    file = {"filename": filename, "url": url, "hashes": {"sha256": digest}, "core-metadata": core}
    file |= {"size": len(content), "yanked": False}
    folder = tree / f"pages/{name}/s-1-ab/simple"
    folder.mkdir(parents=True)
    (folder.parents[1] / "cur").symlink_to("s-1-ab")
    page = {"meta": {"api-version": "1.1"}, "name": name, "versions": ["1.0"], "files": [file]}
    (folder / "index.v1_json").write_text(json.dumps(page))
    link = f'<a href="{url}#sha256={digest}" data-core-metadata="sha256={core["sha256"]}">{filename}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")


def mirror(name: str, host: str) -> dict[str, object]:
    url = f"https://{name}.{host}.fleet.test:{MIRRORS[name]}"
    place = {"continent": "OC", "country": "NZ", "city": "Auckland", "latitude": -36.8, "longitude": 174.8}
    return {"name": name, "url": url, "urls": [url], "mode": "bandersnatch", "tier": 1, "location": place,
            "bandwidth": 100, "address_families": ["ipv4"]}  # fmt: skip


def main(folder: Path, host: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        publish(folder / "served", name)
    now = int(time.time())
    fleet = {"agreement_version": "1", "staleness_limit": 10**7}
    record = {
        "projects": 2, "partial": False, "on_miss": "not_found", "state": "active", "upstream": None, "networks": [],
        "operator": {"name": "A", "email": "a@fleet.test"},
        "agreement": {"version": "1", "accepted_on": "2026-11-20", "expires_on": None},
    }  # fmt: skip
    entry = {
        "operator": {"name": "A"}, "serial": 1, "listed": True, "code": "listed", "reason": "", "since": 1, "next": "",
        "last_modified": now, "score": None, "availability": None,
    }  # fmt: skip
    health = {
        "measured_at": now,
        "good": 9,
        "bad": 0,
        "problem": "",
        "last_modified": now,
        "addresses": ["127.0.0.1"],
    }
    both = [mirror(name, host) for name in MIRRORS]
    about = {"name": "f", "coordinator": {"name": "C", "email": "c@fleet.test"}}
    documents = {
        "registry": {"schema": 1, "fleet": fleet | about, "origins": [], "mirrors": [one | record for one in both]},
        "mirrors": {"schema": 1, "fleet": "f", **fleet, "mirrors": [one | entry for one in both]},
        "health": {
            "schema": 1, "monitor": "m", "at": now, "reference": {"problem": "", "serial": 1},
            "mirrors": dict.fromkeys(MIRRORS, health),
        },
    }  # fmt: skip
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    with tarfile.open(folder / "fleet.tar", "w") as archive:
        archive.add(folder / "served", "mirror/served")
        archive.add(Path(__file__).with_name("serve.py"), "route/serve.py")
        for name in documents:
            archive.add(folder / f"{name}.json", f"route/{name}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
