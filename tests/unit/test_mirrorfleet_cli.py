"""What the command does around its verbs."""

import json
from pathlib import Path

import pytest

from mirrorfleet.cli import main


@pytest.mark.parametrize("there", [True, False])
def test_a_sync_is_good_whether_or_not_its_metrics_can_be_written(
    tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = tmp_path / "local"
    packages.mkdir()
    folder = tmp_path / "metrics"
    if there:
        folder.mkdir()
    (tmp_path / "state").mkdir()
    config = tmp_path / "mirror.json"
    config.write_text(
        json.dumps(
            {
                "schema": 1,
                "name": "origin",
                "mode": "origin",
                "url": "https://origin.fleet.test",
                "minimum_free_bytes": 0,
                "local_packages": str(packages),
                "paths": {
                    "fetched": str(tmp_path / "fetched"),
                    "served": str(tmp_path / "served"),
                    "state": str(tmp_path / "state"),
                    "metrics": str(folder / "mirrorfleet.prom"),
                },
            }
        )
    )
    assert main(["sync", "-c", str(config)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["good"]
    assert (folder / "mirrorfleet.prom").exists() == there
