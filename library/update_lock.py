#!/usr/bin/python
"""Take, renew or give back the lock of updates: one run at a time, whoever types it. Documented in update_lock.yml."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def held(text: str) -> dict[str, Any]:
    """Who has it; nobody where what is written cannot be read, for a lock never outlives a full disk."""
    try:
        found = json.loads(text)
        whole = all(isinstance(found[key], int) for key in ("since", "until"))
        whole &= all(isinstance(found[key], str) for key in ("run", "by", "node"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if whole else {}


def result_of(params: dict[str, Any], now: int, *, check: bool = False) -> dict[str, Any]:
    """The module's whole result; the file is locked meanwhile, so that of two runs one sees the other."""
    with os.fdopen(os.open(params["path"], os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        there = held(file.read())
        own = there.get("run") == params["run"]
        if params["state"] == "free":
            taken, wanted = False, "" if own else None
        else:
            # A clock that was ahead when it was taken keeps nobody out for longer than it may last.
            free = not there or there["until"] <= now or there["until"] > now + 2 * params["seconds"]
            taken = own or free or there["run"] == params["instead_of"]
            noted = {key: params[key] for key in ("run", "by", "node")}
            noted |= {"since": there["since"] if own else now, "until": now + params["seconds"]}
            wanted = json.dumps(noted) + "\n" if taken else None
        if wanted is not None and not check:
            file.seek(0)
            file.truncate()
            file.write(wanted)
    return {"changed": False, "taken": taken, "held": there}


ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "default": "/etc/mirrorfleet/update.lock"},
    "state": {"choices": ["taken", "free"], "default": "taken"},
    "run": {"type": "str", "required": True},
    "by": {"type": "str", "default": ""},
    "node": {"type": "str", "default": ""},
    "seconds": {"type": "int", "default": 14400},
    "instead_of": {"type": "str", "default": ""},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        found = result_of(module.params, int(time.time()), check=module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"{module.params['path']} cannot be locked: {error}")
    module.exit_json(**found)


if __name__ == "__main__":
    main()
