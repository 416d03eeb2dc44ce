#!/usr/bin/env python3
"""Inventory script: every host_vars/NAME.yml beside this file's link that sets mirror_mode is a host of `mirrors`.

So one new file is all a new mirror takes, and a volunteer can send it as one pull request.
Link this file into a fleet's inventory folder (`ln -s ../mirrors.py`); Ansible runs it because it is executable.
"""

import json
import re
import sys
from pathlib import Path


def mirrors(folder: Path) -> list[str]:
    files = sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")])
    return [
        f.stem for f in files if re.search(r"^mirror_mode\s*:", f.read_text(encoding="utf-8"), re.MULTILINE)
    ]


if __name__ == "__main__":
    # Not resolved: the folder of the link, not of this file.
    fleet = Path(sys.argv[0]).absolute().parent
    print(json.dumps({"mirrors": {"hosts": mirrors(fleet / "host_vars")}, "_meta": {"hostvars": {}}}))
