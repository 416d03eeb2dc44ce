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
from ansible.template import trust_as_template
from ansible.utils.display import Display

# Ansible loads a plugin file by itself, not as part of a package: what plugins share has to be put in reach.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import documents, old_form, wiring
from plugin_utils.rules import Fleet
from plugin_utils.told import lines

DOCUMENTATION = """
name: fleet
author: [mirrorfleet]
short_description: A fleet of mirrors, from its file and one record per mirror
description:
  - Reads C(fleet.yml) and, beside it, C(mirrors/NAME.yml) for each mirror, as plain data (docs/inventory.md), checks
    them and computes the fleet once.
  - A record that is wrong becomes no host; every run says so. What is wrong with C(fleet.yml) ends the run.
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

FILE, FOLDER = "fleet.yml", "mirrors"
# What playbooks ask of a record; all else that it says is in what it becomes, fleet_inputs.
OWN = ("mirror_mode", "mirror_state", "mirror_upstream", "mirror_address_families")
NAME_IT = (
    "name the fleet's file: -i FOLDER/fleet.yml, or ANSIBLE_INVENTORY=FOLDER/fleet.yml (docs/inventory.md)"
)
display = Display()


def end(*told: str) -> NoReturn:
    """One message, and no run: Ansible itself would go on with what other sources gave, or with localhost."""
    display.error("\n".join(told), wrap_text=False)
    raise SystemExit(4)


def trusted(value: Any) -> Any:
    """What is ours, as templates."""
    if isinstance(value, dict):
        return {key: trusted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [trusted(one) for one in value]
    return trust_as_template(value) if isinstance(value, str) else value


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]
    """The plugin, as Ansible loads it."""

    NAME = "fleet"
    trusted_by_default = False  # for what is set without a word, too: only trusted() makes templates

    def verify_file(self, path: str) -> bool:
        alone = constants.config.get_config_value("INVENTORY_ENABLED") == [self.NAME]
        if os.path.basename(path) == FILE and os.path.isfile(path):
            if alone:
                self._refuse_folders()
            return True
        if alone:  # nothing else can read it, so this is the place to say why
            self._refuse_folders()
            end(self._what_is(path))
        return False

    def _refuse_folders(self) -> None:
        for source in context.CLIARGS.get("inventory") or constants.DEFAULT_HOST_LIST or []:
            if "," not in source and os.path.isdir(source):
                end(
                    f"The inventory {source} is a folder, whose files Ansible would read one by one. Next: {NAME_IT}."
                )

    def _what_is(self, path: str) -> str:
        if not os.path.exists(path):
            return f"The inventory {path} does not exist. Next: {NAME_IT}."
        if os.path.isfile(os.path.join(os.path.dirname(path), os.pardir, FILE)):
            return f"The inventory {path} is a mirror's record: data, never an inventory. Next: {NAME_IT}."
        if moved := old_form.told(Path(path).parent):
            return moved
        return f"The inventory {path} is no {FILE}. Next: {NAME_IT}."

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        folder = Path(path).absolute().parent
        if moved := old_form.told(folder):
            self._fail(moved)
        try:
            shared = documents.read(Path(path), FILE)
        except documents.UnreadableError as error:
            at = f":{error.line}:{error.column}" if error.line else ""
            key = f" {error.key}" if error.key else ""
            self._fail(f"{path}{at}:{key} {error.problem}. Next: {error.next_step or 'correct it'}.")
        records, stray = self._records(folder / FOLDER)
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        fleet = Fleet(shared, records, today)
        if fatal := fleet.fatal():
            told = [f"{path} is wrong, so nothing was done:", *lines(fatal), *lines(fleet.stopped())]
            self._fail("\n".join([*told, *stray]))
        left_out = [*lines(fleet.stopped()), *stray]
        for line in left_out:
            display.warning(line)
        self._populate(fleet)
        # For playbooks/callback_plugins/fleet.py. No variables, which others could set, too.
        inventory.read_by_fleet = [*getattr(inventory, "read_by_fleet", []), inventory.current_source]
        inventory.left_out_by_fleet = [*getattr(inventory, "left_out_by_fleet", []), *left_out]

    def _fail(self, message: str) -> NoReturn:
        if constants.config.get_config_value("INVENTORY_ENABLED") == [self.NAME]:
            end(message)
        raise AnsibleParserError(message)

    def _records(self, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """The records by name, and what lies beside them and is none."""
        records: dict[str, Any] = {}
        stray: list[str] = []
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            if path.name.startswith(".") or path.name.endswith("~"):
                continue
            if path.suffix != ".yml" or not path.is_file():
                stray.append(
                    f"{FOLDER}/{path.name} is no record and was left out. Allowed: files NAME.yml. "
                    "Next: rename or remove it."
                )
                continue
            try:
                if os.access(path, os.X_OK) and path.stat().st_mode & 0o111:
                    raise documents.UnreadableError(
                        "is executable, and a record is data", None, f"chmod -x {path.name}"
                    )
                records[path.stem] = documents.read(path, f"{FOLDER}/{path.name}")
            except documents.UnreadableError as error:
                records[path.stem] = error
        return records, stray

    def _populate(self, fleet: Fleet) -> None:
        inventory, wired = self.inventory, wiring.Wiring(fleet)
        for group in ("fleet", *wiring.TEMPLATES, "retired", "waiting"):
            inventory.add_group(group)
        for parent, children in wiring.CHILDREN.items():
            for child in children:
                inventory.add_child(parent, child)
        for group, members in fleet.groups.items():
            for name in members:
                inventory.add_host(name, group)
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
