"""pip and uv install from each mode's tree, by JSON and by HTML, and refuse what was tampered with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from faults.clients import lock, pip, uv
from faults.fleet import Host, Origin
from faults.nginx import OF_ONE_TYPE, Nginx


@pytest.fixture(params=["origin", "mirror", "tier2"])
def host(request: pytest.FixtureRequest) -> Host:
    host: Host = request.getfixturevalue(request.param)
    host.run("sync")
    return host


def one(host: Host, pattern: str) -> Path:
    (found,) = (host.served / "packages").rglob(pattern)
    return found


@pytest.mark.parametrize("kind", ["JSON", *OF_ONE_TYPE])
def test_pip_and_uv_install_from_every_mode(
    host: Host, web: Callable[[Path], Nginx], tmp_path: Path, kind: str
) -> None:
    # Without its sidecar at hand a client would have to fetch the wheel to learn its dependencies.
    away = one(host, "gamma_delta-1.0*.whl").rename(tmp_path / "away")
    tampered = one(host, "beta-2.0*.whl")
    good = tampered.read_bytes()
    tampered.unlink()  # for it is the fetched one, too
    tampered.write_bytes(bytes([good[0] ^ 255]) + good[1:])
    server = web(host.served)
    index = f"{server.of_one_type.get(kind, server.url)}/simple/"
    digest = host.files("alpha")["alpha-2.0-py3-none-any.whl"]["hashes"]["sha256"]
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"alpha==2.0 --hash=sha256:{digest}\n")
    pip(tmp_path / "pip", index, "--require-hashes", "-r", requirements)
    assert (tmp_path / "pip/alpha-2.0-py3-none-any.whl").is_file()
    uv(tmp_path / "uv", index, "--require-hashes", "-r", requirements)
    assert (tmp_path / "uv/alpha.py").read_text() == "version = '2.0'\n"
    uv(tmp_path / "range", index, "gamma_delta<2", "--dry-run")
    pip(tmp_path / "bad", index, "beta==2.0", "--only-binary", ":all:", good=False)
    uv(tmp_path / "bad", index, "beta==2.0", good=False)
    away.rename(one(host, "gamma_delta-1.0*.metadata").with_suffix(""))
    tampered.write_bytes(good)


def test_upload_times_serve_uv_and_its_lock(
    origin: Origin, web: Callable[[Path], Nginx], tmp_path: Path
) -> None:
    index = f"{web(origin.served).url}/simple/"
    uv(tmp_path / "newer", index, "alpha", "--exclude-newer", "2021-01-01")
    told = uv(tmp_path / "older", index, "alpha", "--exclude-newer", "2019-01-01", good=False)
    assert "no solution" in told.lower()
    digest = origin.files("beta")["beta-2.0.tar.gz"]["hashes"]["sha256"]
    assert digest in lock(tmp_path / "project", index, "beta")


def test_clients_avoid_what_is_yanked_and_fail_on_what_is_quarantined(
    origin: Origin, web: Callable[[Path], Nginx], tmp_path: Path
) -> None:
    origin.facts("alpha", yanked={"2.0": "broken"})
    origin.facts("beta", status="quarantined")
    origin.publish()
    server = web(origin.served)
    for number, url in enumerate((server.url, *server.of_one_type.values())):
        index = f"{url}/simple/"
        pip(tmp_path / f"pip{number}", index, "alpha")
        assert [path.name for path in (tmp_path / f"pip{number}").iterdir()] == ["alpha-1.0-py3-none-any.whl"]
        uv(tmp_path / f"uv{number}", index, "alpha")
        assert (tmp_path / f"uv{number}/alpha.py").read_text() == "version = '1.0'\n"
        pip(tmp_path / "none", index, "beta", good=False)
        uv(tmp_path / "none", index, "beta", good=False)
