"""What Ansible sends to a host, compiled there once, as the rest of Python is by its package.

A module comes as an archive of sources, and Python compiles some fifty of its files at each task: a third of what a
task costs a host, and the tests run thousands on two processors. A lent host does without, and takes 0.1 s longer.
"""

import marshal
import os
import zipimport
import zlib

# Gone at the next start, and root's alone: nobody else's code is run from it.
FOLDER = "/run/sandbox-modules"
compiled = zipimport._compile_source


def once(path, source):
    name = (
        f"{FOLDER}/{zlib.crc32(source):08x}{zlib.adler32(source):08x}-{len(source)}-{os.path.basename(path)}"
    )
    try:
        with open(name, "rb") as file:
            return marshal.loads(file.read())  # noqa: S302 -- root alone writes there
    except FileNotFoundError:
        code = compiled(path, source)
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    with open(f"{name}.{os.getpid()}", "wb") as file:
        file.write(marshal.dumps(code))
    os.rename(file.name, name)
    return code


if os.getuid() == 0:
    zipimport._compile_source = once
