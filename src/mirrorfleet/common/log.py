"""Log lines for people and for journald: one line an event, on stderr."""

import logging
import os
import re

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s\x22<>]*@")


def without_credentials(text: str) -> str:
    """A URL, or a text with URLs in it, as anybody may read it: without user and password."""
    return _USER.sub(r"\1", text)


class _Formatter(logging.Formatter):
    def __init__(self, *, journald: bool) -> None:
        super().__init__("%(message)s" if journald else "%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        # A line break in a hostile value must not start a log line of its own.
        text = super().format(record).replace("\n", "\\n") if not record.exc_info else super().format(record)
        text = without_credentials(text)
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}" if self._journald else text


def set_up(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(journald="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
