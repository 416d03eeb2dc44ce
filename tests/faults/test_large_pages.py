"""Pages of hundreds of megabytes, whoever sends them: they are not taken, and cost no more memory than is allowed."""

import os
import subprocess
import sys
from pathlib import Path

from faults.fleet import DEADLINE, SOURCE, Host, Mirror, Origin, Site, Tier2

from mirrorfleet.fetch.fetched import MAX_DOCUMENT
from mirrorfleet.fetch.upstream import MAX_PAGE
from mirrorfleet.served.tree import PAGES, snapshot_name

PROJECTS = ["alpha", "beta", "gamma-delta"]
MEGABYTES = 300
LARGE = {"megabytes": MEGABYTES, "type": "application/vnd.pypi.simple.v1+json"}
ALLOWED = MAX_PAGE + (100 << 20)  # of memory: a page as large as any may be, and what a run needs anyway


# Not by getrusage(2), which counts what the process was that started it.
MEASURED = """
import re, sys
from pathlib import Path
from mirrorfleet.cli import main
code = main(sys.argv[1:])
print(re.search("VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


def memory_of(host: Host, verb: str, *options: str) -> tuple[int, int]:
    """A run's exit code, and the most memory that it had."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, *host.command(verb, *options)[3:]],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    host.log = ran.stderr
    return ran.returncode, int(ran.stdout.splitlines()[-1]) << 10


def test_an_origin_takes_no_page_of_hundreds_of_megabytes(origin: Origin, site: Site, tmp_path: Path) -> None:
    dump = Host(
        tmp_path / "dump",
        "origin",
        index_url=f"{site.url}/simple/",
        selection={"projects": PROJECTS},
        tries=1,
    )
    dump.run("sync")
    origin.release("beta", "3.0")
    origin.publish()
    site.faults({"^/simple/alpha/$": LARGE})
    code, memory = memory_of(dump, "sync")
    assert code == 1
    assert f"/simple/alpha/: longer than {MAX_PAGE} bytes" in dump.log
    assert memory < ALLOWED
    assert len(dump.files("alpha")) == 4
    assert len(dump.files("beta")) == 6
    assert dump.broken() == []


def test_a_mirror_takes_no_page_of_hundreds_of_megabytes(origin: Origin, site: Site, mirror: Mirror) -> None:
    mirror.configure(tries=1)
    mirror.run("sync")
    origin.release("beta", "3.0")
    origin.publish()
    site.faults({"^/simple/alpha/$": LARGE})
    code, memory = memory_of(mirror, "sync")
    assert code == 1
    assert f"/simple/alpha/: longer than {MAX_PAGE} bytes" in mirror.log
    assert memory < ALLOWED
    assert mirror.names() == PROJECTS
    assert len(mirror.files("alpha")) == 4
    assert mirror.broken() == []


def test_a_tier2_takes_no_page_of_hundreds_of_megabytes(origin: Origin, tier2: Tier2) -> None:
    """It is what its snapshot's name says, so that only its size is against it."""
    tier2.run("sync")
    for name in ("alpha", "beta"):
        origin.release(name, "3.0")
    origin.publish()
    current = Path(os.path.realpath(origin.served / "pages/alpha/cur"))
    contents = {page: (current / page).read_bytes() for page in PAGES}
    contents["simple/index.html"] += b" " * (MEGABYTES << 20)
    serial = origin.page("alpha")["meta"]["_last-serial"]
    large = current.parent / snapshot_name(serial, contents)
    current.rename(large)
    (large / "simple/index.html").write_bytes(contents["simple/index.html"])
    (large.parent / "cur").unlink()
    (large.parent / "cur").symlink_to(large.name)
    del contents
    code, memory = memory_of(tier2, "pull", "--full")
    assert code == 1
    assert (
        f"project alpha keeps its previous page: snapshot {large.name}: simple/index.html did not come"
        in tier2.log
    )
    assert memory < ALLOWED
    assert max(path.stat().st_size for path in tier2.root.rglob("*") if path.is_file()) < MAX_DOCUMENT
    assert len(tier2.files("alpha")) == 4
    assert len(tier2.files("beta")) == 6
    assert tier2.broken() == []
