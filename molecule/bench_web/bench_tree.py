"""What `make bench-web` serves: a small page, a page of about 1 MB, a wheel of 300 kB. Run as: bench_tree.py FOLDER."""

import shutil
import sys
from pathlib import Path

from make_tree import make_certificate, make_tree, wheel

HOST = "debian-13"


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    (folder / HOST).mkdir(parents=True)
    small = [("1.0", *wheel("small", "1.0", padding=300_000))]
    large = [(version, *wheel("large", version)) for version in (f"1.{patch}" for patch in range(2250))]
    make_tree(folder, HOST, {"small": small, "large": large})
    make_certificate(folder)


if __name__ == "__main__":
    main()
