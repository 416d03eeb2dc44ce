"""Which file pip and uv choose on an index, or how they refuse. Runs in the clients' environment; told uv's path.

A line of standard input is {"url": …, "questions": [[client, requirement, way], …]}; it is answered by one: per
question what was chosen, {"file": …, "hashes": …}, or {"refused": …, "file": the one that it came to last, or null}.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pip._internal.commands.install
import pip._internal.resolution.resolvelib.resolver  # noqa: F401  what `pip install` imports as it goes
from pip._internal.cli.main import main as pip_main

UV = sys.argv[1]
MOMENT = "2020-01-01T00:00:00.1Z"
WAYS = {
    "newest": {"pip": [], "uv": []},
    "prerelease": {"pip": ["--pre"], "uv": ["--prerelease", "allow"]},
    "cooldown": {"pip": ["--uploaded-prior-to", MOMENT], "uv": ["--exclude-newer", MOMENT]},
    "source": {"pip": ["--no-binary", ":all:"], "uv": ["--no-binary", ":all:"]},
}


def name_of(url):
    return unquote(urlsplit(url).path.rpartition("/")[2])


def without_places(text):
    text = re.sub(r" at 0x[0-9a-f]+|(?<=')/[^']*/", "", text)
    return re.sub(r"https?://[^\s`'\"]+", lambda url: name_of(url[0]) or "INDEX", text)


def said(folder):
    return re.sub(r"\x1b\[[\d;]*m", "", (folder / "log").read_text(errors="replace"))


def asked_of_pip(folder, url, wanted, options):
    """In a fork: to start and to import cost more than to choose."""
    fixed = ["--dry-run", "--ignore-installed", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    fixed += ["--retries", "0", "--progress-bar", "off", "--no-color", "--no-input", "--report"]
    child = os.fork()
    if child == 0:
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY, 0o600)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        code = pip_main(["install", *fixed, f"{folder}/report", "--index-url", url, *options, wanted])
        sys.stdout.flush()
        os._exit(code)
    good = os.waitpid(child, 0)[1] == 0
    if good:
        ((one),) = json.loads((folder / "report").read_text())["install"]
        chosen = one["download_info"]
        return {"file": name_of(chosen["url"]), "hashes": chosen["archive_info"].get("hashes", {})}
    log = said(folder)
    tried = re.findall(
        r"(?:^ +Downloading|404 .* for url:) (\S+?)(?:\.metadata)?(?: \(.*\))?$", log, re.MULTILINE
    )
    *_, last = [line for line in log.splitlines() if line.strip()]
    return {"refused": without_places(last).strip(), "file": name_of(tried[-1]) if tried else None}


def asked_of_uv(folder, url, wanted, options):
    command = [
        UV,
        "pip",
        "compile",
        "-",
        "--verbose",
        "--no-deps",
        "--no-progress",
        "--color",
        "never",
        "--refresh",
    ]
    command += ["--format", "pylock.toml", "--python", sys.executable, "--default-index", url, *options]
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            command, input=wanted, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, check=False
        )
    log = said(folder)
    tried = re.findall(r"Selecting: .* \((.*)\)$", log, re.MULTILINE)
    file = tried[-1] if tried else None
    if done.returncode == 0:
        hashes = re.findall(r'url = "([^"]*)".*hashes = { ([^}]*) }', done.stdout)
        (found,) = [
            dict(re.findall(r'(\w+) = "(\w+)"', listed)) for one, listed in hashes if name_of(one) == file
        ]
        return {"file": file, "hashes": found}
    error = re.findall(r"^error: .*", log, re.MULTILINE)[-1]
    if "unexpected JSON" in error:
        error = re.findall(r"^  cause: (.*?)(?: at line \d+ column \d+)?$", log, re.MULTILINE)[-1]
    return {"refused": without_places(error), "file": file}


CLIENTS = {"pip": asked_of_pip, "uv": asked_of_uv}


def main():
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "HOME": home,
            "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_CONFIG": "1",
            "UV_CACHE_DIR": f"{home}/uv",
        }
        for line in sys.stdin:
            asked = json.loads(line)
            found = []
            for client, wanted, way in asked["questions"]:
                with tempfile.TemporaryDirectory(dir=home) as folder:
                    found.append(CLIENTS[client](Path(folder), asked["url"], wanted, WAYS[way][client]))
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
