"""Running bandersnatch and reading its outcome from what it left, never from its exit code."""

import asyncio
import configparser
import contextlib
import logging
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ..common.config import Bandersnatch
from ..common.files import entries, regular_size, remove, remove_temporaries, write_atomically
from ..common.guards import RefusedError, require_free_space
from ..common.names import InvalidNameError, project_name
from ..common.progress import Progress

log = logging.getLogger(__name__)

GUARDS = {"mirrorfleet_names", "mirrorfleet_places"}  # the plugins that keep it within its tree
_LINE = re.compile(r"^\S+ \S+ (?P<level>[A-Z]+): (?P<message>.*?)(?: \([\w.]+:\d+\))?$")
_TOTAL = re.compile(r"^(\d+) packages to sync\.$")
_STORED = re.compile(r"^Storing index page\(s\): (\S+) ")
_FILE = re.compile(r"^Downloading: \S*?(/packages/\S+)$")
_GUARD_SECONDS = 5
_TELL_PLUGINS = """
from importlib.metadata import entry_points
for kind in ("project", "metadata", "release", "release_file"):
    print(*(point.name for point in entry_points(group="bandersnatch_filter_plugins.v2." + kind)))
"""


@dataclass
class Run:
    """How one process ended; None when it was stopped by us."""

    code: int | None
    errors: list[str]


class Client:
    def __init__(
        self,
        settings: Bandersnatch,
        fetched: Path,
        minimum_free: int,
        progress: Progress,
        lock: int | None = None,
    ) -> None:
        self._settings = settings
        self._fetched = fetched
        self._minimum_free = minimum_free
        self._progress = progress
        # The child keeps the lock too: if we are killed, no second run starts beside it.
        self._inherited = () if lock is None else (lock,)

    def identity(self) -> str:
        """Changes when another program is installed, so that its version is asked for only then."""
        try:
            status = self._settings.program.stat()
        except OSError as error:
            return str(error)
        return f"{self._settings.program.resolve()} {status.st_mtime_ns}"

    def version(self) -> str:
        command = [str(self._settings.program), "--version"]
        try:
            shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("bandersnatch --version: %s", error)
            return "unknown"
        return (shown.split() or ["unknown"])[-1]

    # Its files

    def serial(self) -> int:
        """The serial up to which a whole run succeeded; 0 before the first."""
        try:
            return int((self._fetched / "status").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def accept_serial(self, serial: int) -> None:
        """Go on from `serial`: the projects that did not reach it are ours to retry from now on."""
        write_atomically(self._fetched / "status", str(serial).encode())
        remove(self._fetched / "todo")

    def start_over(self) -> None:
        """Have the next run look at every selected project again."""
        remove(self._fetched / "todo")
        remove(self._fetched / "status")

    def todo(self) -> set[str]:
        try:
            lines = (self._fetched / "todo").read_text("utf-8", "replace").splitlines()[1:]
        except FileNotFoundError:
            return set()
        names = set()
        for line in lines:
            with contextlib.suppress(InvalidNameError, IndexError):
                names.add(project_name(line.split()[0]))
        return names

    def has_todo(self) -> bool:
        return (self._fetched / "todo").exists()

    def tidy(self) -> None:
        """Remove what a run left half written that was killed or ran out of space."""
        for entry in entries(self._fetched):
            if entry.name.startswith(("generation.", "status.", "todo.", ".")) and entry.name != ".lock":
                remove(Path(entry.path))
        remove_temporaries(self._fetched / "web/simple")
        remove_temporaries(self._fetched / "web/json")

    # Its runs

    def mirror(self) -> Run:
        return self._run("mirror")

    def require_plugins(self) -> None:
        """Raise `RefusedError` when a plugin of the configuration is not there, or a guard not in the configuration.

        bandersnatch passes over its name, and fetches what it would leave out. Ours are where our programs are
        (roles/sync_client).
        """
        config = configparser.ConfigParser(delimiters="=", interpolation=None)
        python = self._settings.program.resolve().with_name("python")
        try:
            config.read(self._settings.config, "utf-8")
            wanted = set(config.get("plugins", "enabled", fallback="").split())
            if unguarded := GUARDS - wanted:
                raise RefusedError(
                    f"{self._settings.config} does not enable {', '.join(sorted(unguarded))}, and bandersnatch would "
                    "write where upstream says; have playbooks/provision.yml write it"
                )
            command = [str(python), "-c", _TELL_PLUGINS]
            shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        except (configparser.Error, OSError, subprocess.SubprocessError) as error:
            raise RefusedError(f"which plugins bandersnatch has cannot be told: {error}") from error
        if missing := wanted - set(shown.split()):
            raise RefusedError(
                f"{self._settings.program} has no plugin {', '.join(sorted(missing))}, and would fetch what it leaves "
                "out; have playbooks/provision.yml bring it"
            )

    def _run(self, *arguments: str) -> Run:
        return asyncio.run(
            self._supervise([str(self._settings.program), "-c", str(self._settings.config), *arguments])
        )

    async def _supervise(self, command: list[str]) -> Run:
        deadline = time.monotonic() + self._settings.timeout
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
            pass_fds=self._inherited,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        run = Run(None, [])
        pending: list[str] = []
        try:
            while True:
                assert process.stdout is not None
                try:
                    raw = await asyncio.wait_for(process.stdout.readline(), _GUARD_SECONDS)
                except TimeoutError:
                    raw = None
                except ValueError:  # a line longer than the limit
                    continue
                if raw == b"":
                    run.code = await process.wait()
                    return run
                if raw is not None:
                    self._read(raw.decode("utf-8", "replace").rstrip("\n"), run, pending)
                require_free_space(self._fetched, self._minimum_free)
                if time.monotonic() > deadline:
                    run.errors.append(f"stopped after {self._settings.timeout} seconds")
                    return run
        except RefusedError as reason:
            log.error("bandersnatch is stopped: %s", reason)
            raise
        finally:
            await _stop(process)

    def _read(self, line: str, run: Run, pending: list[str]) -> None:
        match = _LINE.match(line)
        if not match:
            log.debug("bandersnatch: %s", line)
            return
        message = match["message"]
        if match["level"] in ("ERROR", "CRITICAL"):
            log.warning("bandersnatch: %s", message)
            run.errors = [*run.errors[-99:], message]
        elif total := _TOTAL.match(message):
            self._progress.begin("fetching", int(total[1]))
        elif file := _FILE.match(message):
            pending.append(file[1])
        elif stored := _STORED.match(message):
            self._progress.add_bytes(
                sum(regular_size(self._fetched / "web" / path[1:]) or 0 for path in pending)
            )
            pending.clear()
            self._progress.step(stored[1])
        else:
            log.debug("bandersnatch: %s", message)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the process if it still runs; its files survive that, its next run resumes."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
