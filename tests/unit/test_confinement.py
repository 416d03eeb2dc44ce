"""Every service that roles write or start is confined, as systemd itself counts; exceptions are on a page."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from confined_units import HOUSE, MOST, declared, exceptions

from plugin_utils import wiring
from plugin_utils.filters import trusted

# Of Debian's own units what counts here; the scenarios count the whole.
DEBIAN = {
    "chrony": "User=_chrony\nProcSubset=pid\nDevicePolicy=closed\nDeviceAllow=char-ptp rw\n",
    "prometheus": "User=prometheus\n",
    "prometheus-blackbox-exporter": "User=prometheus\n",
    "prometheus-node-exporter": "User=prometheus\n",
}
STARTED = {"apt-daily.timer": "apt-daily.service", "apt-daily-upgrade.timer": "apt-daily-upgrade.service"}


def items() -> dict[str, tuple[Path, dict[str, Any]]]:
    """By path below /etc/systemd/system what a role puts there: the role, and the item of its declaration."""
    found = {}
    for path in HOUSE.glob("roles/*/*/main.yml"):
        todo: list[Any] = [yaml.safe_load(path.read_text())]
        for node in todo:
            if isinstance(node, dict):
                todo += node.values()
                if str(node.get("path")).startswith("/etc/systemd/system/") and "template" in node:
                    found[node["path"].removeprefix("/etc/systemd/system/")] = (path.parents[1], node)
            elif isinstance(node, list):
                todo += node
    for path in HOUSE.glob("roles/tls/tasks/*.yml"):
        for place, template in re.findall(
            r"path: /etc/systemd/system/(\S+), template: (\S+?)[,}]", path.read_text()
        ):
            found[place] = (path.parents[1], {"template": template})
    return found


SERVICES = {
    place: item for place, item in items().items() if place.endswith((".service", "/mirrorfleet.conf"))
}


def rendered(role: Path, item: dict[str, Any], **given: Any) -> str:
    filter_loader.add_directory(str(HOUSE / "filter_plugins"))
    variables = {"inventory_hostname": "mirror.fleet.test", "ansible_managed": "managed"}
    for name in ("defaults", "vars"):
        variables |= (
            trusted(yaml.safe_load((role / name / "main.yml").read_text())) if (role / name).exists() else {}
        )
    templar = Templar(loader=DataLoader(), variables=variables | item.get("vars", {}) | given)
    text = (role / "templates" / item["template"]).read_text()
    return str(templar.template(trust_as_template(text)))


@pytest.mark.parametrize("place", sorted(SERVICES))
def test_a_service_of_ours_comes_to_no_more_than_allowed(place: str, tmp_path: Path) -> None:
    role, item = SERVICES[place]
    text, (unit, _, drop_in) = rendered(role, item), place.partition(".service")
    file = tmp_path / f"{unit}.service"
    if drop_in:
        file.write_text(f"[Service]\nExecStart=/bin/true\n{DEBIAN.get(unit, '')}")
        (tmp_path / f"{unit}.service.d").mkdir()
        (tmp_path / f"{unit}.service.d/mirrorfleet.conf").write_text(text)
    else:
        file.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", str(file)],
        env=os.environ | {"SYSTEMD_COLORS": "0", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (counted,) = re.findall(r"exposure level for \S+: ([0-9.]+)", done.stdout) or [done.stderr]
    assert float(counted) <= MOST, done.stdout


def test_who_is_not_confined_is_on_the_page_and_nobody_else() -> None:
    confined = {
        place.partition(".service")[0] + ".service"
        for place, (role, item) in SERVICES.items()
        if "systemd_sandbox" in (role / "templates" / item["template"]).read_text()
    }
    services = {STARTED.get(name, name) for name in declared()}
    assert {name for name in services if name.endswith(".service")} - confined == exceptions().keys()


def test_exceptions_are_more_open_than_others() -> None:
    assert all(MOST < exposure <= 10 for exposure in exceptions().values())


@pytest.mark.parametrize(
    ("addresses", "listen"),
    [
        ([], ["--web.listen-address=:9100"]),
        (
            ["192.0.2.7", "2001:db8::7"],
            ["--web.listen-address=192.0.2.7:9100", "--web.listen-address=[2001:db8::7]:9100"],
        ),
    ],
)
def test_node_exporter_listens_where_monitors_reach_it(addresses: list[str], listen: list[str]) -> None:
    text = rendered(
        HOUSE / "roles/monitoring_agent",
        {"template": "prometheus-node-exporter.j2"},
        monitoring_agent_addresses=addresses,
    )
    (arguments,) = re.findall(r'^ARGS="(.*)"$', text, re.MULTILINE)
    assert [word for word in arguments.split() if "listen" in word] == listen


@pytest.mark.parametrize(
    ("of_the_record", "own", "listen"),
    [
        (
            ["192.0.2.7", "2001:db8::7"],
            ["10.0.0.7", "192.0.2.7", "2001:db8::7"],
            ["192.0.2.7", "2001:db8::7"],
        ),
        (["192.0.2.7", "2001:db8::7"], ["10.0.0.7", "2001:db8::7"], []),
        (["mirror.example.org"], ["192.0.2.7"], []),
        (["192.0.2.7"], None, []),
    ],
    ids=["its own", "translated", "a name", "no preflight"],
)
def test_where_monitors_reach_a_host(
    of_the_record: list[str], own: list[str] | None, listen: list[str]
) -> None:
    variables: dict[str, Any] = {"fleet_inputs": {"addresses": of_the_record}}
    variables |= {} if own is None else {"__preflight_host": {"addresses": own}}
    templar = Templar(loader=DataLoader(), variables=variables)
    wired = wiring.TEMPLATES["fleet"]["monitoring_agent_addresses"]
    assert templar.template(trust_as_template(wired)) == listen
