"""An upstream that names paths: whatever it calls projects and files, it is written where it is served from."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from faults.fleet import Host, Mirror, Origin, Site

from mirrorfleet.fetch.bandersnatch import GUARDS

# Paths of URLs: out of the tree, out of its packages, and such as not everybody reads alike.
PATHS = [
    "packages/../../{}",
    "packages/../../../{}",
    "packages/%2e%2e/%2E./{}",
    "packages/aa/..%2f..%2F../{}",
    "packages%2f..%2f..%2f..%2f{}",
    "packages-of/../../{}",
    "packages-of/{}",
    "packages//{}",
    "packages/./{}",
    "packages/..\\{}",
    "packages/aa/{};x",
]


@pytest.fixture
def there(origin: Origin, site: Site) -> dict[str, bytes]:
    """Of alpha a wheel behind each such URL, in its page and in its document."""
    for number in range(len(PATHS)):
        origin.release("alpha", f"{number + 3}.0")
    origin.publish()
    pages = Path(os.path.realpath(origin.served / "simple/alpha")).parent
    page, document = pages / "simple/index.v1_json", pages / "pypi/json"
    listed, known = json.loads(page.read_bytes()), json.loads(document.read_bytes())
    found, faults = {}, {}
    for number, path in enumerate(PATHS):
        name = f"alpha-{number + 3}.0-py3-none-any.whl"
        (entry,) = (one for one in listed["files"] if one["filename"] == name)
        (other,) = (one for one in known["releases"][f"{number + 3}.0"] if one["filename"] == name)
        real = entry["url"].removeprefix("../../")
        found[name] = (origin.served / real).read_bytes()
        for end in ("", ".metadata"):
            faults[rf"^(?!/{real}).*{name}(;x)?{end}$"] = {"redirect": f"{site.url}/{real}{end}"}
        entry["url"] = other["url"] = f"{site.url}/{path.format(name)}"
    page.write_text(json.dumps(listed))
    document.write_text(json.dumps(known))
    site.faults(faults)
    return found


@pytest.mark.parametrize("mode", ["bandersnatch", "origin"])
def test_every_file_is_served_and_none_is_written_where_its_url_leads(
    there: dict[str, bytes], site: Site, tmp_path: Path, mode: str
) -> None:
    root = tmp_path / "far/from/all"
    if mode == "bandersnatch":
        host: Host = Mirror(root, site.url, ["alpha"])
    else:
        host = Host(root, mode, index_url=f"{site.url}/simple/", selection={"projects": ["alpha"]})
    assert host.run("sync")["good"]
    within = (host.fetched / "web/packages", host.served / "packages")
    written = [path for path in (tmp_path / "far").rglob("*") if path.is_file() and "alpha-" in path.name]
    assert [path for path in written if not any(folder in path.parents for folder in within)] == []
    for name, data in there.items():
        assert (
            host.served / unquote(host.files("alpha")[name]["url"].removeprefix("../../"))
        ).read_bytes() == data
    assert host.broken() == host.leftovers() == []


def test_no_run_begins_where_a_guard_is_not_enabled(mirror: Mirror) -> None:
    config = mirror.root / "bandersnatch.conf"
    guarded = config.read_text()
    for guard in GUARDS:
        config.write_text(guarded.replace(guard, ""))
        mirror.run("sync", expect=4)
        assert f"does not enable {guard}, and bandersnatch would write where upstream says" in mirror.log
        assert not (mirror.fetched / "web").exists()


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder whose path is a normalised name but for its slashes."""
    folder = Path(f"/tmp/elsewhere-{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_project_that_is_called_a_path_is_none(
    origin: Origin, site: Site, tmp_path: Path, elsewhere: Path
) -> None:
    root = Path(os.path.realpath(origin.served / "simple/index.v1_json"))
    listed = json.loads(root.read_bytes())
    listed["projects"].append({"name": str(elsewhere / "alpha"), "_last-serial": 1})
    root.write_text(json.dumps(listed))
    document = Path(f"{origin.served}/pypi/{elsewhere}/alpha")
    document.parent.mkdir(parents=True)
    document.symlink_to(os.path.realpath(origin.served / "pypi/alpha"))
    mirror = Mirror(tmp_path / "mirror", site.url, [])
    mirror.select([], everything=True)
    assert mirror.run("sync")["good"]
    assert list(elsewhere.iterdir()) == []
    assert mirror.names() == ["alpha", "beta", "gamma-delta"]
