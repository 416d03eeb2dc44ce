"""rsync, which brings named paths of the tier above and tells which snapshot each project has there."""

import errno
import logging
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..common.config import Rsync
from ..common.log import without_credentials
from ..common.names import InvalidNameError, own_name
from ..served.tree import SNAPSHOT

log = logging.getLogger(__name__)

_LINK = re.compile(r" pages/([^/ ]+)/cur -> (?:/rsyncd-munged/)?(\S+)$")
# rsync could not transfer some files, or they vanished meanwhile: what came is judged file by file.
_PARTIAL = (23, 24)
_VANISHED = (24,)


class TransferError(Exception):
    """rsync did not get through; the message is its own."""

    def __init__(self, what: str) -> None:
        super().__init__(without_credentials(what))


class _TooLargeError(TransferError):
    """The sender sent more of a file than it may have, whatever it had listed."""


class Transfer:
    """Runs rsync: named paths of the source into a directory."""

    def __init__(self, settings: Rsync, lock: int | None) -> None:
        self._settings = settings
        # rsync keeps the lock too: if we are killed, no second run starts beside it.
        self._inherited = () if lock is None else (lock,)

    def fetch(self, names: Iterable[str], target: Path, *options: str, largest: int) -> None:
        """Fetch what is there of the named paths and has at most so many bytes; the caller looks at what came.

        A sender may list less than it sends, and rsync takes it: the kernel does not (setrlimit(2), RLIMIT_FSIZE). What
        else was named comes all the same.
        """
        if not (names := list(names)):
            return
        target.mkdir(parents=True, exist_ok=True)
        listed = "".join(f"{name}\0" for name in names)
        bounded = [*options, f"--max-size={largest}", "--files-from=-", "--from0"]
        try:
            self._run(bounded, f"{target}/", listed, limit=("prlimit", f"--fsize={largest}"))
        except _TooLargeError as error:
            log.warning("%s", error)
            if len(names) > 1:
                half = len(names) // 2
                self.fetch(names[:half], target, *options, largest=largest)
                self.fetch(names[half:], target, *options, largest=largest)

    def current_snapshots(self, names: Iterable[str] | None) -> dict[str, str]:
        """Which snapshot each project has now; of all of them when no names are given."""
        if names is None:
            patterns = ("/pages/", "/pages/*/", "/pages/*/cur")
            options = ["-l", *(f"--include={p}" for p in patterns), "--exclude=*"]
            # What a broken listing lacks would be taken for gone.
            shown_lines = self._run(options, None, "", acceptable=_VANISHED)
        else:
            listed = "".join(f"pages/{name}/cur\0" for name in names)
            shown_lines = self._run(["-l", "--files-from=-", "--from0"], None, listed)
        return dict(filter(None, map(_known_link, shown_lines.splitlines())))

    def _run(
        self,
        options: list[str],
        target: str | None,
        stdin: str,
        acceptable: tuple[int, ...] = _PARTIAL,
        limit: tuple[str, ...] = (),
    ) -> str:
        source = self._settings.source.rstrip("/") + "/"
        command = [
            *limit,
            self._settings.program,
            "-rt",
            # What changed within one second to something as long is another file: rsync(1), --modify-window.
            "--modify-window=-1",
            "--chmod=D755,F644",
            f"--timeout={self._settings.timeout}",
            *self._settings.options,
            *options,
            # With a list of files rsync wants a destination even when it only lists.
            *(["--list-only", source, "."] if target is None else [source, target]),
        ]
        ran = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            pass_fds=self._inherited,
            # Python ignores SIGXFSZ, and so does rsync then, which is told EFBIG and says of what.
            restore_signals=False,
        )
        if ran.returncode in acceptable:
            log.info("rsync: %s", ran.stderr.strip()[-500:])
        elif ran.returncode != 0:
            known = _TooLargeError if f"({errno.EFBIG})" in ran.stderr else TransferError
            raise known(f"rsync from {source}: exit {ran.returncode}: {ran.stderr.strip()[-500:]}")
        return ran.stdout


def _known_link(line: str) -> tuple[str, str] | None:
    """Project and snapshot of a line of rsync's listing, when it is a project's current link."""
    match = _LINK.search(line)
    if not match or not SNAPSHOT.fullmatch(match[2]):
        return None
    try:
        return own_name(match[1]), match[2]
    except InvalidNameError:
        return None
