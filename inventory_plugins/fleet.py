"""From a fleet's file and its mirrors' records to groups, hosts and each host's inputs. Thin: see plugin_utils/."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from ansible import constants, context
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.display import Display

# Ansible loads a plugin file by itself, not as part of a package: what plugins share has to be put in reach.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import inventory, old_form, wiring
from plugin_utils.filters import trusted
from plugin_utils.rules import Fleet
from plugin_utils.told import lines

DOCUMENTATION = """
name: fleet
author: [mirrorfleet]
short_description: A fleet of mirrors, from its file and one record per mirror
description:
  - Reads C(fleet.yml) and, beside it, C(mirrors/NAME.yml) for each mirror, as plain data (docs/inventory.md), checks
    them and computes the fleet once.
  - A record that is wrong becomes no host; every run says so. What is wrong with C(fleet.yml) ends the run, and so does
    a file of C(group_vars/) or C(host_vars/) that is no YAML; all else that is wrong is told with it.
  - Sets C(fleet_inputs) of each host and, on groups, the inputs of roles. Both lie below what C(group_vars/) and
    C(host_vars/) say. Nothing that a record or C(fleet.yml) says is ever evaluated.
options:
  plugin:
    description: That C(fleet.yml) is read by this plugin.
    required: true
    choices: [fleet]
"""
EXAMPLES = """
# inventory/example/fleet.yml; ansible-inventory -i inventory/example/fleet.yml --host akl1.example.org
plugin: fleet
fleet_name: Example fleet
"""

# What playbooks ask of a record; all else that it says is in what it becomes, fleet_inputs.
OWN = ("mirror_mode", "mirror_state", "mirror_upstream", "mirror_address_families")
display = Display()


def end(*told: str) -> NoReturn:
    """One message, and no run: Ansible itself would go on with what other sources gave, or with localhost."""
    display.error("\n".join(told), wrap_text=False)
    raise SystemExit(4)


def _alone() -> bool:
    """Whether no other plugin reads inventories."""
    enabled: list[str] = constants.config.get_config_value("INVENTORY_ENABLED")
    return enabled == [InventoryModule.NAME]


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]
    """The plugin, as Ansible loads it."""

    NAME = "fleet"
    trusted_by_default = False  # for what is set without a word, too: only trusted() makes templates

    def verify_file(self, path: str) -> bool:
        if _alone():  # nothing else can read it, so this is the place to say why
            for source in context.CLIARGS.get("inventory") or constants.DEFAULT_HOST_LIST or []:
                if "," not in source and os.path.isdir(source):
                    end(inventory.unusable(Path(source)))
            if why := inventory.unusable(Path(path)):
                end(why)
        return os.path.basename(path) == inventory.FILE and os.path.isfile(path)

    def parse(self, hosts: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(hosts, loader, path, cache)
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        found = inventory.read(Path(path), today, _alone())
        moved = old_form.told(found.folder)
        fatal = found.fatal()
        if moved or fatal or not found.fleet:
            told = [moved] if moved else []
            told += [f"{path} is wrong, so nothing was done:", *lines(fatal)] if fatal else []
            self._fail("\n".join([*told, *lines(found.left_out()), *lines(found.mistakes)]))
        left_out = lines(found.left_out())
        for line in left_out:
            display.warning(line)
        self._populate(found.fleet)
        self._set("sites", {"fleet_beside": found.told_to_preflight()})
        # For playbooks/callback_plugins/fleet.py. No variables, which others could set, too.
        hosts.read_by_fleet = [*getattr(hosts, "read_by_fleet", []), hosts.current_source]
        hosts.left_out_by_fleet = [*getattr(hosts, "left_out_by_fleet", []), *left_out]

    def _fail(self, message: str) -> NoReturn:
        if _alone():
            end(message)
        raise AnsibleParserError(message)

    def _populate(self, fleet: Fleet) -> None:
        hosts, wired = self.inventory, wiring.Wiring(fleet)
        for group in ("fleet", *wiring.TEMPLATES, "retired", "waiting"):
            hosts.add_group(group)
        for parent, children in wiring.CHILDREN.items():
            for child in children:
                hosts.add_child(parent, child)
        for group, members in fleet.groups.items():
            for name in members:
                hosts.add_host(name, group)
        for group, values in wiring.shared(fleet).items():
            self._set(group, values)
        for templates in (wiring.TEMPLATES, wiring.package_templates()):
            for group, values in templates.items():
                self._set(group, trusted(values))
        self._set("fleet", wired.alike)
        for name in fleet.hosts:
            own = {key: one for key, one in fleet.records[name].items() if key in OWN}
            self._set(name, own | {"fleet_inputs": wired.inputs(name)})

    def _set(self, name: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self.inventory.set_variable(name, key, value)
