"""What every run of a playbook here begins and ends with. Ansible loads it because it lies beside the playbooks.

At the start: the inventory is one that the plugin `fleet` made, all of it. Another plugin, as under another
ansible.cfg, would evaluate what records say. At the end: which records were left out, and why.
"""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar, trust_as_template

DOCUMENTATION = """
name: fleet
type: aggregate
short_description: Refuses foreign inventories, names the records that were left out
description:
  - Ends a run before its first task when its inventory was not made by the inventory plugin C(fleet) alone.
  - Names, after the recap, every record that was left out and every host that waits for another.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """The callback, as Ansible loads it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fleet"

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def v2_playbook_on_play_start(self, play: Any) -> None:
        data = play.get_variable_manager()._inventory._inventory
        ours = set(getattr(data, "read_by_fleet", ()))
        foreign = [str(source) for source in data.processed_sources if source not in ours]
        # Whoever enables other plugins beside ours means to.
        meant = "fleet" in constants.config.get_config_value("INVENTORY_ENABLED")
        if not ours or (foreign and not meant):
            what = (
                f"was read by another plugin than mirrorfleet's: {', '.join(foreign)}"
                if foreign
                else "was not read"
            )
            self._display.error(
                f"The inventory {what}. Nothing was done. Allowed: a fleet.yml, with mirrorfleet's own ansible.cfg, "
                "which enables mirrorfleet's plugin alone, so that no record is taken for an inventory and evaluated. "
                "Next: run from the checkout, or export ANSIBLE_CONFIG=CHECKOUT/ansible.cfg, and name the file: "
                "-i FOLDER/fleet.yml.",
                wrap_text=False,
            )
            raise SystemExit(4)
        self.told = getattr(data, "left_out_by_fleet", self.told)
        # Each worker is a fork: filters that are loaded before it are loaded once, not once for each task and host.
        Templar(loader=play.get_loader(), variables={}).template(
            trust_as_template("{{ {} | systemd_sandbox }}")
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 -- the signature is Ansible's
        if self.told:
            self._display.display("Left out of this run, or waiting:", color="yellow")
            for line in self.told:
                self._display.display(f"  {line}", color="yellow")
