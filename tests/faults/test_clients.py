"""pip and uv install from each mode's tree, by JSON and by HTML, and refuse what was tampered with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from faults.clients import lock, pip, uv
from faults.fleet import Host, Origin, Site


@pytest.fixture(params=["origin", "mirror", "tier2"])
def host(request: pytest.FixtureRequest) -> Host:
    host: Host = request.getfixturevalue(request.param)
    host.run("sync")
    return host


@pytest.mark.parametrize("prefix", ["", "/html"], ids=["JSON", "HTML"])
def test_pip_and_uv_install_from_every_mode(
    host: Host, serve: Callable[[Path], Site], tmp_path: Path, prefix: str
) -> None:
    site = serve(host.served)
    index = f"{site.url}{prefix}/simple/"
    digest = host.files("alpha")["alpha-2.0-py3-none-any.whl"]["hashes"]["sha256"]
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"alpha==2.0 --hash=sha256:{digest}\n")
    # Without its sidecar at hand a client would have to fetch the wheel to learn its dependencies.
    site.faults({r"alpha-1\.0.*\.whl$": 500})
    pip(tmp_path / "pip", index, "--require-hashes", "-r", requirements)
    assert (tmp_path / "pip/alpha-2.0-py3-none-any.whl").is_file()
    uv(tmp_path / "uv", index, "--require-hashes", "-r", requirements)
    assert (tmp_path / "uv/alpha.py").read_text() == "version = '2.0'\n"
    uv(tmp_path / "range", index, "gamma_delta<2", "--dry-run")
    site.faults({r"beta-2\.0.*\.whl$": "corrupt"})
    pip(tmp_path / "bad", index, "beta==2.0", "--only-binary", ":all:", good=False)
    uv(tmp_path / "bad", index, "beta==2.0", good=False)


def test_upload_times_serve_uv_and_its_lock(origin: Origin, site: Site, tmp_path: Path) -> None:
    index = f"{site.url}/simple/"
    uv(tmp_path / "newer", index, "alpha", "--exclude-newer", "2021-01-01")
    assert (
        "no solution"
        in uv(tmp_path / "older", index, "alpha", "--exclude-newer", "2019-01-01", good=False).lower()
    )
    digest = origin.files("beta")["beta-2.0.tar.gz"]["hashes"]["sha256"]
    assert digest in lock(tmp_path / "project", index, "beta")


def test_clients_avoid_what_is_yanked_and_fail_on_what_is_quarantined(
    origin: Origin, site: Site, tmp_path: Path
) -> None:
    origin.facts("alpha", yanked={"2.0": "broken"})
    origin.facts("beta", status="quarantined")
    origin.publish()
    for number, index in enumerate((f"{site.url}/simple/", f"{site.url}/html/simple/")):
        pip(tmp_path / f"pip{number}", index, "alpha")
        assert [path.name for path in (tmp_path / f"pip{number}").iterdir()] == ["alpha-1.0-py3-none-any.whl"]
        uv(tmp_path / f"uv{number}", index, "alpha")
        assert (tmp_path / f"uv{number}/alpha.py").read_text() == "version = '1.0'\n"
        pip(tmp_path / "none", index, "beta", good=False)
        uv(tmp_path / "none", index, "beta", good=False)
