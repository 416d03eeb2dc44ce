"""Install the collections of a requirements.yml: from Galaxy, else from the pinned `ansible` wheel.

    install_collections.py REQUIREMENTS TARGET PINS

Both routes give the same files, which are run beside the key of the fleet's authority: PINS, as sha256sum writes it,
has the wheel's hash and that of each collection's MANIFEST.json, which has those of all others (through FILES.json).
What differs from it is an error, and nothing of it is installed.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml

ANSIBLE_WHEEL = "ansible==12.3.0"  # carries every collection named in requirements.yml in that version
GALAXY_SECONDS = 30
DOWNLOAD_SECONDS = 900


def from_galaxy(requirements: Path, target: Path) -> bool:
    command = [
        str(Path(sys.executable).with_name("ansible-galaxy")),
        "collection", "install", "--force", "--requirements-file", str(requirements), "--collections-path", str(target),
    ]  # fmt: skip
    try:
        return (
            subprocess.run(command, capture_output=True, timeout=GALAXY_SECONDS, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def from_wheel(wanted: dict[str, str], target: Path, pins: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary", ":all:", "--dest", scratch, ANSIBLE_WHEEL],
            check=True, timeout=DOWNLOAD_SECONDS,
        )  # fmt: skip
        (wheel,) = Path(scratch).glob("*.whl")
        compare(wheel, wheel.name, pins.get(wheel.name))
        with zipfile.ZipFile(wheel) as archive:
            for name, version in wanted.items():
                prefix = f"ansible_collections/{name.replace('.', '/')}/"
                manifest = json.loads(archive.read(prefix + "MANIFEST.json"))
                found = manifest["collection_info"]["version"]
                if found != version:
                    sys.exit(
                        f"{name}: requirements.yml pins {version}, {ANSIBLE_WHEEL} carries {found}; pin the same."
                    )
                archive.extractall(target, [m for m in archive.namelist() if m.startswith(prefix)])


def compare(path: Path, name: str, pinned: str | None) -> None:
    if not path.is_file():
        sys.exit(f"{name} is missing. Nothing was installed.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != pinned:
        sys.exit(
            f"{name} has the sha256 {found}, {sys.argv[3]} pins {pinned or 'none'}. Nothing was installed. If the "
            "version was changed on purpose, pin the hash that its publisher names; else somebody changed the file."
        )


def verify(folder: Path, name: str, version: str, pins: dict[str, str]) -> None:
    """Every file that is there is the one that the pinned manifest names; what a wheel leaves out runs nowhere."""
    label = f"{name}-{version}"
    compare(folder / "MANIFEST.json", f"{label}/MANIFEST.json", pins.get(f"{label}/MANIFEST.json"))
    listing = json.loads((folder / "MANIFEST.json").read_bytes())["file_manifest_file"]
    compare(folder / listing["name"], f"{label}/{listing['name']}", listing["chksum_sha256"])
    listed = {one["name"]: one for one in json.loads((folder / listing["name"]).read_bytes())["files"]}
    for path in sorted(folder.rglob("*")):
        inside = str(path.relative_to(folder))
        if path.is_symlink() or (path.is_file() and inside not in {"MANIFEST.json", listing["name"]}):
            compare(path, f"{label}/{inside}", listed.get(inside, {}).get("chksum_sha256"))


def main() -> None:
    requirements, target = Path(sys.argv[1]), Path(sys.argv[2])
    lines = Path(sys.argv[3]).read_text("ascii").splitlines()
    pins = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    wanted = {c["name"]: str(c["version"]) for c in yaml.safe_load(requirements.read_text())["collections"]}
    if bad := [f"{n} {v}" for n, v in wanted.items() if not re.fullmatch(r"\d+\.\d+\.\d+", v)]:
        sys.exit(f"{requirements}: exact versions only, not {', '.join(bad)}")
    target.mkdir(parents=True, exist_ok=True)
    # Aside, until it is known to be right.
    with tempfile.TemporaryDirectory(dir=target, prefix=".") as scratch:
        aside = Path(scratch)
        if from_galaxy(requirements, aside):
            whence = "from Galaxy"
        else:
            whence = f"Galaxy does not answer; from the {ANSIBLE_WHEEL} wheel"
            from_wheel(wanted, aside, pins)
        folders = {name: Path("ansible_collections", *name.split(".")) for name in wanted}
        for name, folder in folders.items():
            verify(aside / folder, name, wanted[name], pins)
        for folder in folders.values():
            shutil.rmtree(target / folder, ignore_errors=True)
            (target / folder).parent.mkdir(parents=True, exist_ok=True)
            (aside / folder).rename(target / folder)
    print(f"{whence}: {', '.join(wanted)}")


if __name__ == "__main__":
    main()
