#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Sign the lists in text of a redirector, if they consist of what the inventory has.

Documented in sign_lists.yml beside it.
"""

from __future__ import annotations

import base64
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PROGRAMS = {"minisign": ("minisign", ".minisig"), "signify": ("signify-openbsd", ".sig")}
ARGUMENTS: dict[str, Any] = {
    "lists": {"type": "dict", "required": True},
    "allowed": {"type": "list", "elements": "str", "required": True},
    "key": {"type": "path", "required": True},
    "tool": {"type": "str", "choices": list(PROGRAMS), "default": "minisign"},
}


class SigningError(Exception):
    """Why nothing is signed, and what to do."""


def sign(lists: dict[str, str], allowed: list[str], key: str, tool: str) -> dict[str, str]:
    """By file name of each signature its text; SigningError for a list with a line that is not allowed, and where the
    program cannot sign."""
    program, suffix = PROGRAMS[tool]
    contents = {name: base64.b64decode(encoded) for name, encoded in lists.items()}
    for name, data in contents.items():
        foreign = set(data.splitlines()) - {line.encode() for line in allowed}
        if foreign or Path(name).name != name:
            shown = ", ".join(sorted(map(ascii, foreign))[:3])
            raise SigningError(
                f"{name} of the redirector has what is no active mirror of this inventory ({shown}); nothing is signed."
                " Run playbooks/publish.yml from the inventory of its fleet; if this is it, look who else writes there"
            )
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in contents.items():
            document = Path(folder, name)
            document.write_bytes(data)
            command = [program, "-S", "-s", key, "-m", str(document), "-x", f"{document}{suffix}"]
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=30,
                    check=False,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise SigningError(
                    f"{program} is not installed on the control node; apt-get install {program}"
                ) from error
            except subprocess.TimeoutExpired as error:
                raise SigningError(f"{program} waits: has {key} a passphrase? It must have none") from error
            if done.returncode:
                raise SigningError(
                    f"{program} cannot sign with {key}: {' '.join((done.stderr or done.stdout).split())}; it is the"
                    " redirector_signing.key of group_vars/redirectors (docs/publish.md)"
                )
            made[name + suffix] = Path(f"{document}{suffix}").read_text("ascii")
    return made


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=False, signatures={})
    try:
        module.exit_json(changed=False, signatures=sign(**module.params))
    except SigningError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
