"""monitor.json: what a monitor watches, how often, and what it audits."""

import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..common.config import ConfigError, bounded, load_as
from ..common.names import InvalidNameError, own_name
from ..fleet.standing import Settings


@dataclass(frozen=True)
class ReferenceSettings:
    """The trusted index: an origin, a redirector, or upstream itself."""

    url: str
    projects: tuple[str, ...]  # small ones that every mirror carries
    seconds: int = bounded(1, default=60)  # between two looks at it
    carries: tuple[str, ...] = ()  # all that it has, where that is a selection; else whatever it is asked for


@dataclass(frozen=True)
class Carried:
    """What some mirrors are to have of what the trusted index has."""

    mirrors: tuple[str, ...]
    projects: tuple[str, ...] = ()  # none: all
    without: tuple[str, ...] = ()


class Selection(NamedTuple):
    """The projects that a mirror is to have and that the trusted index has, as far as lists say so."""

    projects: frozenset[str] | None = None  # None: no list bounds them
    without: frozenset[str] = frozenset()
    trusted: frozenset[str] | None = None  # all that the trusted index has; None: nobody says

    def comparable(self, project: str) -> bool:
        """Whether the trusted index can say what is right, should the mirror have it."""
        return project not in self.without and (self.trusted is None or project in self.trusted)

    def includes(self, project: str) -> bool:
        return project not in self.without and (self.projects is None or project in self.projects)


@dataclass(frozen=True)
class MonitorConfig:
    name: str
    registry: Path
    state: Path  # a folder
    health: Path
    reference: ReferenceSettings
    ca_file: Path | None = None
    targets: Path | None = None  # a folder for the targets of Prometheus (file_sd)
    metrics: Path | None = None  # for node_exporter's textfile collector
    metrics_port: int | None = bounded(1, 65535, default=None)  # on the loopback addresses
    prometheus: str | None = None  # its URL on this host; asked for the days that it remembers
    prometheus_seconds: int = bounded(1, default=6 * 3600)  # between two times that it is asked
    interval: float = bounded(0.1, 86400, default=60)  # seconds between two rounds of a mirror
    transition_interval: float = bounded(
        0.1, 86400, default=20
    )  # of one that is new, or changed a moment ago
    settled_rounds: int = bounded(1, 1000, default=5)  # alike in a row, until it is neither
    timeout: float = bounded(0.1, 3600, default=10)  # of one request
    budget: float = bounded(0.1, 3600, default=30)  # of all requests of a round in one family
    workers: int = bounded(1, 4096, default=100)
    write_seconds: float = bounded(0.05, 3600, default=5)
    largest_file: int = bounded(0, default=200_000)  # bytes up to which a file is fetched whole
    private_networks: tuple[str, ...] = ()  # in which mirrors may have addresses that are not public
    connect_to: dict[str, list[str]] = field(
        default_factory=dict
    )  # addresses by mirror, instead of its name's
    fall: int = bounded(
        1, 1000, default=Settings.fall
    )  # as the list goes by: alerts say when a mirror leaves
    rise: int = bounded(1, 1000, default=Settings.rise)
    audit_seconds: int = bounded(60, default=86400)  # an audit is due when the last is older
    audit_retry_seconds: int = bounded(1, default=300)  # until one that did not pass is repeated, at least
    selections: tuple[Carried, ...] = ()  # of a mirror in none: all that the trusted index has
    audit_projects: tuple[str, ...] = ()  # much used: looked at more; default: those of the reference
    removed_projects: tuple[str, ...] = ()  # that no mirror may serve, beside what the trusted index removed
    audit_bytes: int = bounded(0, default=100_000_000)  # largest amount that one audit fetches of files

    @property
    def known(self) -> tuple[str, ...]:
        """Projects that a person named as worth a look."""
        return self.audit_projects or self.reference.projects

    @cached_property
    def _selections(self) -> dict[str, Selection]:
        carries = frozenset(self.reference.carries) or None
        found: dict[str, Selection] = {}
        for one in self.selections:
            own = frozenset(one.projects) or carries
            both = own & carries if own and carries else own
            found |= dict.fromkeys(one.mirrors, Selection(both, frozenset(one.without), carries))
        return found

    def selection(self, mirror: str) -> Selection:
        carries = frozenset(self.reference.carries) or None
        return self._selections.get(mirror, Selection(carries, trusted=carries))

    @property
    def audits(self) -> Path:
        return self.state / "audits"

    @property
    def audit_due(self) -> Path:
        """Is there when a mirror is new or became well; what watches it starts `audit --due`, which removes it."""
        return self.state / "audit-due"


def load_monitor(path: Path) -> MonitorConfig:
    config = load_as(MonitorConfig, path)
    if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+/-]*)?", config.reference.url):
        raise ConfigError(
            f"{path}: reference.url: must be https://NAME[:PORT][/PATH], not {config.reference.url!r}"
        )
    if config.prometheus and not re.fullmatch(
        r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9._~+-]+)*", config.prometheus
    ):
        raise ConfigError(
            f"{path}: prometheus: must be http://127.0.0.1[:PORT][/PATH] (or localhost, [::1]), this host's own, not"
            f" {config.prometheus!r}"
        )
    if not config.reference.projects:
        raise ConfigError(
            f"{path}: reference.projects: names none; small ones that every mirror carries are needed"
        )
    selected = [name for one in config.selections for name in (*one.projects, *one.without)]
    named = (*config.reference.projects, *config.audit_projects, *config.removed_projects)
    for at, name in enumerate((*named, *config.reference.carries, *selected)):
        try:
            own_name(name)
        except InvalidNameError as error:
            raise ConfigError(f"{path}: project {at + 1} is {name!r}, no normalised project name") from error
    for name, addresses in config.connect_to.items():
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise ConfigError(f"{path}: connect_to.{name}: {address!r} is no address") from error
    for network in config.private_networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ConfigError(f"{path}: private_networks: {network!r} is no network") from error
    try:
        ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise ConfigError(f"{path}: ca_file: {config.ca_file} cannot be used: {error}") from error
    return config
