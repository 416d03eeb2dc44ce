"""Small projects made up here, as an origin takes them from a folder: FOLDER/PROJECT/FILE.

Run as: make_packages.py FOLDER PROJECT=VERSION,VERSION...
"""

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

EPOCH = (2026, 1, 1, 0, 0, 0)  # the same wheel each time


def digest(text: str) -> str:
    """As a RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def make_wheel(folder: Path, project: str, version: str) -> Path:
    module = project.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / project / f"{module}-{version}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {
        f"{module}/__init__.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{digest(text)},{len(text)}\n" for name, text in files.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), text)
    return path


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        name, versions = argument.split("=")
        for each in versions.split(","):
            make_wheel(Path(sys.argv[1]), name, each)
