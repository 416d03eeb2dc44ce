"""What the clients of `make bench-sync` ask for: 30 projects that need each other, and files of 20 MB.

Run as: bench_tree.py FOLDER PROJECT..., where each PROJECT gets one file of 20 MB. Two trees come of it: ours, by the
publisher, and the 30 projects as a real bandersnatch mirrors them.
"""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from fleet import BANDERSNATCH, Mirror, Site
from make_tree import make_certificate, make_tree, wheel

HOSTS = ("tier1", "cache")
PROJECTS = 30
VERSIONS = ("1.0", "1.1", "1.2", "2.0")
WHEEL, LARGE = 200_000, 20_000_000
# Metadata carry a project's read-me, and weigh thousands of bytes by it.
DESCRIPTION = "What this project is for, how it is used, and what has changed since.\n" * 110


def requires(number: int) -> list[str]:
    """Two projects below this one, and, of every fifth, an older release of a third, so that clients look twice."""
    below = [f"tree-{child}>=1.0" for child in (2 * number + 1, 2 * number + 2) if child < PROJECTS]
    if number % 5 == 0 and number + 7 < PROJECTS:
        below.append(f"tree-{number + 7}<2")
    return below


def mirror(folder: Path) -> None:
    """The 30 projects by bandersnatch, whose exit code does not say whether they are there."""
    site = Site(folder / "tier1/served", folder / "site")
    try:
        plain = Mirror(folder / "plain", site.url, [f"tree-{number}" for number in range(PROJECTS)])
        command = [BANDERSNATCH, "-c", plain.root / "bandersnatch.conf", "mirror"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        site.stop()
    wheels = list(plain.fetched.glob("web/packages/*/*/*/*.whl"))
    if len(wheels) != PROJECTS * len(VERSIONS):
        sys.exit(f"bandersnatch mirrored {len(wheels)} files: {said.stderr[-2000:]}")
    with tarfile.open(folder / "plain.tar", "w") as archive:
        archive.add(plain.fetched / "web", "plain")


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tier1").mkdir(parents=True)
    projects = {
        f"tree-{number}": [
            (version, *wheel(f"tree-{number}", version, WHEEL, requires(number), DESCRIPTION))
            for version in VERSIONS
        ]
        for number in range(PROJECTS)
    }
    projects |= {name: [("1.0", *wheel(name, "1.0", LARGE))] for name in sys.argv[2:]}
    make_tree(folder, "tier1", projects)
    mirror(folder)
    make_certificate(folder, HOSTS)


if __name__ == "__main__":
    main()
