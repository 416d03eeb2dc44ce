"""Of every host of every scenario: what roles install or start there is confined, as systemd itself counts."""

import re

from confined_units import MOST, declared, exceptions


def services(host):
    """Services of declared units that are here; of a timer or a path, what it starts; of a template, an instance."""
    names = sorted(name.replace("@.", "@instance.") for name in declared())
    shown = host.check_output(
        f"SYSTEMD_COLORS=0 systemctl --no-pager show --property Id,LoadState,Triggers {' '.join(names)}"
    )
    found = set()
    for unit in shown.split("\n\n"):
        values = dict(line.split("=", 1) for line in unit.splitlines())
        if values["LoadState"] == "loaded":
            found |= {values["Id"], *values["Triggers"].split()}
    return sorted(name for name in found if name.endswith(".service"))


def test_services_are_confined_and_exceptions_are_what_the_page_says(host):
    found = services(host)
    # Its JSON tells all of one service but the sum, and the sum of those alone that run.
    said = found and host.check_output(
        f"SYSTEMD_COLORS=0 systemd-analyze security --no-pager {' '.join(found)}"
    )
    counted = {
        name: float(exposure)
        for name, exposure in re.findall(r"exposure level for (\S+): ([0-9.]+)", said or "")
    }
    assert sorted(counted) == found
    open_ones = {name: exposure for name, exposure in counted.items() if exposure > MOST}
    assert open_ones == {name: exposure for name, exposure in exceptions().items() if name in counted}
