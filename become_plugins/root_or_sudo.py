"""As root, however a host gives it: a login that is root already needs no sudo, and may have none.

The options are those of Ansible's own plugin, which has to find them here.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.become.sudo import BecomeModule as Sudo

DOCUMENTATION = """
name: root_or_sudo
short_description: Root by sudo, and without it where the login is root already
description:
  - On the host it is asked who the login is. Root runs the task as it is (as another user by runuser(1)), so that a
    host needs no sudo; everybody else runs it by sudo, with the options of P(ansible.builtin.sudo#become).
author: [mirrorfleet]
options:
  become_user:
    description: User you 'become' to execute the task.
    default: root
    type: str
    ini:
      - {section: privilege_escalation, key: become_user}
      - {section: sudo_become_plugin, key: user}
    vars:
      - {name: ansible_become_user}
      - {name: ansible_sudo_user}
    env:
      - {name: ANSIBLE_BECOME_USER}
      - {name: ANSIBLE_SUDO_USER}
    keyword:
      - {name: become_user}
  become_exe:
    description: Sudo executable.
    default: sudo
    type: str
    ini:
      - {section: privilege_escalation, key: become_exe}
      - {section: sudo_become_plugin, key: executable}
    vars:
      - {name: ansible_become_exe}
      - {name: ansible_sudo_exe}
    env:
      - {name: ANSIBLE_BECOME_EXE}
      - {name: ANSIBLE_SUDO_EXE}
    keyword:
      - {name: become_exe}
  become_flags:
    description: Options to pass to sudo.
    default: -H -S -n
    type: str
    ini:
      - {section: privilege_escalation, key: become_flags}
      - {section: sudo_become_plugin, key: flags}
    vars:
      - {name: ansible_become_flags}
      - {name: ansible_sudo_flags}
    env:
      - {name: ANSIBLE_BECOME_FLAGS}
      - {name: ANSIBLE_SUDO_FLAGS}
    keyword:
      - {name: become_flags}
  become_pass:
    description: Password to pass to sudo.
    type: str
    ini:
      - {section: sudo_become_plugin, key: password}
    vars:
      - {name: ansible_become_password}
      - {name: ansible_become_pass}
      - {name: ansible_sudo_pass}
    env:
      - {name: ANSIBLE_BECOME_PASS}
      - {name: ANSIBLE_SUDO_PASS}
  sudo_chdir:
    description: Directory to change to before invoking sudo; can avoid permission errors when dropping privileges.
    type: str
    ini:
      - {section: sudo_become_plugin, key: chdir}
    vars:
      - {name: ansible_sudo_chdir}
    env:
      - {name: ANSIBLE_SUDO_CHDIR}
"""


class BecomeModule(Sudo):  # type: ignore[misc]  # ansible ships no types
    """Asked on the host itself, for who one is there may be written in ~/.ssh/config only."""

    name = "sudo"

    def build_become_command(self, cmd: str, shell: Any) -> str:
        by_sudo: str = super().build_become_command(cmd, shell)
        if not cmd:
            return by_sudo
        plain: str = self._build_success_command(cmd, shell)
        user = self.get_option("become_user") or "root"
        if user != "root":
            plain = f"runuser -u {shlex.quote(user)} -- {plain}"
        return f'if [ "$(id -u)" -eq 0 ]; then {plain}; else {by_sudo}; fi'
