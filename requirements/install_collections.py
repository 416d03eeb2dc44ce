"""Install the collections of a requirements.yml: from Galaxy, else from the pinned `ansible` wheel.

Both routes give the same versions; the wheel route checks that and fails where they differ.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml

ANSIBLE_WHEEL = "ansible==12.3.0"  # carries every collection named in requirements.yml in that version
GALAXY_SECONDS = 30


def from_galaxy(requirements: Path, target: Path) -> bool:
    command = [
        str(Path(sys.executable).with_name("ansible-galaxy")),
        "collection", "install", "--requirements-file", str(requirements), "--collections-path", str(target),
    ]  # fmt: skip
    try:
        return (
            subprocess.run(command, capture_output=True, timeout=GALAXY_SECONDS, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def from_wheel(wanted: dict[str, str], target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--dest", scratch, ANSIBLE_WHEEL],
            check=True,
        )  # fmt: skip
        (wheel,) = Path(scratch).glob("*.whl")
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


def main() -> None:
    requirements, target = Path(sys.argv[1]), Path(sys.argv[2])
    wanted = {c["name"]: str(c["version"]) for c in yaml.safe_load(requirements.read_text())["collections"]}
    if bad := [f"{n} {v}" for n, v in wanted.items() if not re.fullmatch(r"\d+\.\d+\.\d+", v)]:
        sys.exit(f"{requirements}: exact versions only, not {', '.join(bad)}")
    if from_galaxy(requirements, target):
        print(f"from Galaxy: {', '.join(wanted)}")
        return
    print(f"Galaxy does not answer; from the {ANSIBLE_WHEEL} wheel: {', '.join(wanted)}")
    from_wheel(wanted, target)


if __name__ == "__main__":
    main()
