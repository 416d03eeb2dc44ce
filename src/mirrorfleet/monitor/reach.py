"""How a monitor reaches a mirror and the trusted index: at the addresses given for it, else at those of its name."""

import contextlib
import ipaddress
import random
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .client import FAMILIES, CheckError, Line, Place, resolve, trusting
from .settings import MonitorConfig

_chance = random.SystemRandom()


# Addresses for documentation, which nobody has: a default route leads there (RFC 5737, RFC 3849).
_ANYWHERE = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}


def _routed(address: str, family: str) -> bool:
    try:
        with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as asked:
            asked.connect((address, 9))
    except OSError:
        return False
    return True


class Reach:
    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._context = trusting(config.ca_file)
        self._resolvers = ThreadPoolExecutor(32, "resolve")
        self._private = [ipaddress.ip_network(one) for one in config.private_networks]

    def families(self, record: dict[str, Any]) -> list[str]:
        """Those of a mirror in which this host has a way itself."""
        return [family for family in record["address_families"] if self.has(family)]

    def has(self, family: str) -> bool:
        """Whether this host's kernel has a route in a family, to the world or to where its mirrors may be.

        To connect a UDP socket asks for it and sends nothing (udp(7)).
        """
        places = [_ANYWHERE[family]]
        places += [str(one[min(1, one.num_addresses - 1)]) for one in self._private]
        places += [one for given in self._config.connect_to.values() for one in given]
        return any(_routed(one, family) for one in places if (":" in one) == (family == "ipv6"))

    def line(self, place: Place) -> Line:
        return Line(place, self._context, self._config.timeout)

    async def mirror(self, record: dict[str, Any], family: str) -> Place:
        """Where a mirror is in one family, at an address drawn by chance; CheckError when it has none."""
        place = Place.of(record["url"], "")
        given = self._config.connect_to.get(record["name"])
        if given is None:
            addresses = await resolve(place.host, family, self._resolvers, self._private)
        else:
            addresses = [one for one in given if (":" in one) == (family == "ipv6")]
        if not addresses:
            raise CheckError(f"{place.host} has no address in this family")
        return replace(place, address=_chance.choice(addresses))

    async def index(self) -> tuple[Place, str]:
        """Where the trusted index is, and what its paths begin with; CheckError when its name does not resolve."""
        place = Place.of(self._config.reference.url, "")
        addresses = list(self._config.connect_to.get("reference", []))
        # Through IPv6 when there is no IPv4: what counts is that it can be had.
        for family in ("ipv4", "ipv6"):
            if not addresses:
                with contextlib.suppress(CheckError):
                    addresses = await resolve(place.host, family, self._resolvers, None)
        if not addresses:
            raise CheckError(f"{place.host} does not resolve")
        prefix = re.sub(r"^https://[^/]+", "", place.base).removesuffix("/simple")
        base = f"https://{place.host}:{place.port}"
        return replace(place, base=base, address=_chance.choice(addresses)), prefix
