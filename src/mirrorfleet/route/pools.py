"""Which mirrors a client may be sent to: pools by where it is, the narrowest first. Pure."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ..fleet.registry import host_of
from .slots import assign, slot_of

Kind = Literal["network", "as", "country", "continent", "world"]
Family = Literal["ipv4", "ipv6"]
FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
CANDIDATES = 3  # mirrors that are asked for a file, one after another, before a trusted host serves it

_PLAIN = re.compile(r"[A-Za-z0-9._-]+\Z")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Key(NamedTuple):
    """A pool, in one address family."""

    family: Family
    kind: Kind
    value: str = ""  # the network, AS65536, NZ, OC

    def __str__(self) -> str:
        over = {"ipv4": "IPv4", "ipv6": "IPv6"}[self.family]
        return f"{self.kind} {self.value} over {over}".replace("  ", " ")


@dataclass(frozen=True)
class Mirror:
    """One that the inventory has, with what it could do and whether it does."""

    name: str
    url: str
    weight: int  # Mbit/s offered
    country: str
    continent: str
    networks: tuple[str, ...] = ()  # networks and AS numbers of clients that it prefers
    families: tuple[str, ...] = FAMILIES  # which it claims to serve
    serving: frozenset[str] = frozenset()  # in which of them clients may be sent to it now
    addresses: tuple[str, ...] = ()  # at which the live check asks it
    why_not: str = ""  # why it serves in none, or not in all

    @property
    def label(self) -> str:
        """What clients and explanations call it: its name, or its host when that is none for a path."""
        return self.name if _PLAIN.match(self.name) else host_of(self.url)


@dataclass(frozen=True)
class Client:
    """Where a request comes from. What is not known of it is empty."""

    address: str
    asn: str = ""  # AS65536
    country: str = ""
    continent: str = ""

    @property
    def family(self) -> Family:
        return "ipv6" if ":" in self.address else "ipv4"


@dataclass(frozen=True)
class Choice:
    """Where a file comes from for a client, and why."""

    pool: Key | None
    slot: int
    candidates: tuple[str, ...]  # asked in this order; the first that has the file serves it
    reason: str


@dataclass(frozen=True)
class Routing:
    """All pools in which a mirror serves: of each slot the mirrors that are asked for its files, in order."""

    mirrors: Mapping[str, Mirror]
    pools: Mapping[Key, Sequence[tuple[str, ...]]] = field(default_factory=dict)

    def pool_of(self, client: Client) -> Key | None:
        """The narrowest pool for a client in which a mirror serves it."""
        return next((key for key in self._places(client) if key in self.pools), None)

    def _places(self, client: Client) -> Iterator[Key]:
        family = client.family
        address = ipaddress.ip_address(client.address)
        around = [network for network in self.networks if address in network]
        for network in sorted(around, key=lambda one: -one.prefixlen):
            yield Key(family, "network", str(network))
        yield Key(family, "as", client.asn)
        yield Key(family, "country", client.country)
        yield Key(family, "continent", client.continent)
        yield Key(family, "world")

    @cached_property
    def networks(self) -> list[Network]:
        return [ipaddress.ip_network(key.value) for key in self.pools if key.kind == "network"]

    def choose(self, client: Client, path: str, *, without: str = "", prefer: str = "") -> Choice:
        """The decision of a redirector that has not asked anybody yet."""
        slot, pool = slot_of(path), self.pool_of(client)
        found = self.pools[pool][slot] if pool else ()
        candidates = [name for name in found if name != without]
        preferred = self.mirrors.get(prefer)
        if preferred and client.family in preferred.serving and prefer != without:
            candidates = [prefer, *(name for name in candidates if name != prefer)]
        if not candidates:
            return Choice(pool, slot, (), "no mirror serves here: the file comes from a trusted host")
        if candidates[0] == prefer:
            return Choice(pool, slot, tuple(candidates), "the client prefers it")
        return Choice(pool, slot, tuple(candidates), f"has slot {slot} of {pool}")


def route(mirrors: Sequence[Mirror]) -> Routing:
    """The pools of a fleet, each over one family, those alone in which a mirror serves."""
    pools: dict[Key, list[tuple[str, ...]]] = {}
    alike: dict[Any, list[tuple[str, ...]]] = {}  # pools of the same mirrors are the same
    members: dict[Key, dict[str, Mirror]] = {}
    for mirror in mirrors:
        for key in _memberships(mirror):
            members.setdefault(key, {})[mirror.name] = mirror
    # The wide ones first: the narrow take their last candidate from them.
    for key in sorted(members, key=lambda one: -_ORDER[one.kind]):
        weights = {name: mirror.weight for name, mirror in members[key].items()}
        serving = frozenset(name for name, one in members[key].items() if key.family in one.serving)
        wider = _wider(key, members[key])
        beyond = next((pools[one] for one in wider if one in pools), None)
        same = (frozenset(weights), serving, id(beyond))
        if same not in alike:
            alike[same] = _with_a_way_out(assign(weights, serving), beyond)
        if serving:
            pools[key] = alike[same]
    return Routing({mirror.name: mirror for mirror in mirrors}, pools)


_ORDER: dict[Kind, int] = {"network": 0, "as": 1, "country": 2, "continent": 3, "world": 4}


def _memberships(mirror: Mirror) -> Iterator[Key]:
    for family in FAMILIES:
        if family not in mirror.families:
            continue
        yield Key(family, "world")
        yield Key(family, "continent", mirror.continent)
        yield Key(family, "country", mirror.country)
        for text in mirror.networks:
            if text.startswith("AS"):
                yield Key(family, "as", text)
            elif f"ipv{ipaddress.ip_network(text).version}" == family:
                yield Key(family, "network", str(ipaddress.ip_network(text)))


def _wider(key: Key, members: Mapping[str, Mirror]) -> list[Key]:
    world = Key(key.family, "world")
    if key.kind == "country":
        return [Key(key.family, "continent", next(iter(members.values())).continent), world]
    return [world] if key.kind != "world" else []


def _with_a_way_out(
    pool: list[tuple[str, ...]], beyond: list[tuple[str, ...]] | None
) -> list[tuple[str, ...]]:
    """Two candidates of the pool and one from beyond it, so that a pool that dies as a whole leaves one to ask."""
    found = []
    for slot, own in enumerate(pool):
        others = [name for name in (beyond[slot] if beyond else ()) if name not in own[:2]]
        found.append(tuple(dict.fromkeys([*own[:2], *others[:1], *own[2:], *others]))[:CANDIDATES])
    return found
