"""The text exposition format of metrics, as Prometheus and node_exporter's textfile collector read it."""

import logging
from pathlib import Path

from .files import write_atomically

log = logging.getLogger(__name__)

Sample = tuple[dict[str, str], float]
Family = tuple[str, str, list[Sample]]  # name, help, samples


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def gauge(name: str, help_text: str, value: float | None) -> Family:
    """One fact; no sample of what is not known."""
    return name, help_text, [] if value is None else [({}, float(value))]


def render(families: list[Family]) -> bytes:
    """The text exposition format; a family without samples is left out."""
    lines = []
    for name, help_text, samples in families:
        if not samples:
            continue
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        for labels, value in samples:
            inner = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
            number = repr(int(value)) if value == int(value) else repr(value)
            lines.append(f"{name}{{{inner}}} {number}" if inner else f"{name} {number}")
    return "".join(f"{line}\n" for line in lines).encode()


def tell(path: Path, families: list[Family]) -> None:
    """For node_exporter's textfile collector; what the run itself is for does not fail for want of its folder."""
    try:
        write_atomically(path, render(families), durable=False)
    except OSError as error:
        log.warning("%s: %s", path, error)
