#!/usr/bin/env python3
"""Inventory script: every host_vars/NAME.yml beside this file's link that sets mirror_mode is a host of `mirrors`.

Those that set mirror_state: retired are in group `retired` too, which the playbooks leave alone.
So one new file is all a new mirror takes, and a volunteer can send it as one pull request.
Link this file into a fleet's inventory folder (`ln -s ../mirrors.py`); Ansible runs it because it is executable.
"""

import json
import re
import sys
from pathlib import Path


def hosts_with(pattern: str, folder: Path) -> list[str]:
    """Names of the files in which a line matches."""
    files = sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")])
    return [f.stem for f in files if re.search(pattern, f.read_text(encoding="utf-8"), re.MULTILINE)]


if __name__ == "__main__":
    # Not resolved: the folder of the link, not of this file.
    folder = Path(sys.argv[0]).absolute().parent / "host_vars"
    retired = hosts_with(r"^mirror_state\s*:\s*[\"']?retired\b", folder)
    groups = {"mirrors": hosts_with(r"^mirror_mode\s*:", folder), "retired": retired}
    print(
        json.dumps({name: {"hosts": hosts} for name, hosts in groups.items()} | {"_meta": {"hostvars": {}}})
    )
