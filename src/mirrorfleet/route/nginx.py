"""The routing in nginx's own language: what the web server includes, and chooses by as `Routing.choose` would. Pure.

Whoever reads a decision off these maps (`/route`) reads the one that clients get. A mirror has a short name here, `m7`
say, which is its upstream block, too: so the live check keeps connections to it, and asks it under its own name.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..fleet.registry import host_of, page_of
from .pools import CANDIDATES, Key, Kind, Mirror, Routing
from .slots import SLOTS

KEPT_CONNECTIONS = 8  # of a worker to a mirror


@dataclass(frozen=True)
class GeoIP:
    """Databases in MaxMind's mmdb format, read by nginx's module geoip2."""

    country: Path | None = None
    asn: Path | None = None


def render(routing: Routing, geoip: GeoIP | None = None) -> str:
    """For the context http."""
    able = sorted(name for name, one in routing.mirrors.items() if one.serving)
    ids = {name: f"m{number}" for number, name in enumerate(able)}
    shown = {ids[name]: routing.mirrors[name] for name in able}
    pools: dict[int, str] = {}
    keys = {key: pools.setdefault(id(pool), f"p{len(pools)}") for key, pool in routing.pools.items()}
    parts: list[Iterable[str]] = [
        _HEAD.splitlines(),
        _upstreams(shown),
        _where(geoip or GeoIP()),
        _geo(keys),
        _pools(keys),
        _slots(routing, keys, ids),
        _candidates(shown),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


_HEAD = """\
# Made by `mirrorfleet route`; the next run replaces it.
# What is asked about: a client's own file and address, or those that /route names.
map "$uri?$arg_address" $route_address {
    default $remote_addr;
    "~^/route\\?(?<route_given_address>[0-9A-Fa-f.:]+)$" $route_given_address;
}
map "$uri?$arg_file" $route_asked {
    default $request_uri;
    "~^/route\\?(?<route_given_file>/.+)$" $route_given_file;
}
# A file's path as the client spelt it, which is what it is sent on with; a label in front of it is for us.
map $route_asked $route_path {
    default "";
    "~/\\.\\.?(?:/|$)" "";
    "~^(?:/trusted|/(?:without|prefer)/[A-Za-z0-9._-]+)?(?<route_file>/packages/[A-Za-z0-9/._~%!+@,=-]+)(?:\\?|$)"
        $route_file;
}
map $route_asked $route_trusted {
    default "";
    "~^/trusted/" 1;
}
map $route_asked $route_without {
    default "";
    "~^/without/(?<route_without_name>[A-Za-z0-9._-]+)/" $route_without_name;
}
map $route_asked $route_prefer {
    default "";
    "~^/prefer/(?<route_prefer_name>[A-Za-z0-9._-]+)/" $route_prefer_name;
}
map $route_address $route_family {
    default ipv4;
    "~:" ipv6;
}"""


def _map(of: str, to: str, entries: Iterable[tuple[str, str]], default: str = '""') -> Iterator[str]:
    yield f"map {of} {to} {{"
    yield f"    default {default};"
    for key, value in entries:
        yield f'    "{key}" "{value}";'
    yield "}"


def _upstreams(shown: dict[str, Mirror]) -> Iterator[str]:
    for short, mirror in shown.items():
        port = page_of(mirror.url).split("/")[2].partition(":")[2] or "443"
        yield f"upstream {short} {{"
        for text in mirror.addresses:
            address = ipaddress.ip_address(text)
            yield f"    server {f'[{address}]' if address.version == 6 else address}:{port};"
        yield f"    keepalive {KEPT_CONNECTIONS};"
        yield "}"


def _where(geoip: GeoIP) -> Iterator[str]:
    asked = {
        geoip.country: {"$route_country": "country iso_code", "$route_continent": "continent code"},
        geoip.asn: {"$route_as_number": "autonomous_system_number"},
    }
    for database, values in asked.items():
        if database:
            yield f'geoip2 "{database}" {{'
            yield from (f"    {name} source=$route_address {field};" for name, field in values.items())
            yield "}"
    if not geoip.country:
        for name in ("$route_country", "$route_continent"):
            yield from _map('""', name, [])
    if not geoip.asn:
        yield from _map('""', "$route_as_number", [])
    yield from _map("$route_as_number", "$route_as", [("~^(?<route_number>[0-9]+)$", "AS$route_number")])


def _geo(keys: dict[Key, str]) -> Iterator[str]:
    yield "geo $route_address $route_network {"
    yield '    default "";'
    for key in sorted(keys):
        if key.kind == "network":
            yield f'    {key.value} "{key.value}";'
    yield "}"


_CHAIN: tuple[tuple[Kind, str], ...] = (
    ("network", "$route_network"),
    ("as", "$route_as"),
    ("country", "$route_country"),
    ("continent", "$route_continent"),
)


def _pools(keys: dict[Key, str]) -> Iterator[str]:
    """The narrowest pool that there is, by what is known of the client; in words, too."""
    told = sorted(keys, reverse=True)
    for suffix in ("", "_told"):
        for number, (kind, variable) in enumerate(_CHAIN):
            wider = _CHAIN[number + 1][0] if number + 1 < len(_CHAIN) else "world"
            name = f"$route_pool{suffix}" if number == 0 else f"$route_pool_{kind}{suffix}"
            entries = [
                (f"{key.family} {key.value}", str(key) if suffix else keys[key])
                for key in told
                if key.kind == kind
            ]
            yield from _map(f'"$route_family {variable}"', name, entries, f"$route_pool_{wider}{suffix}")
        entries = [(key.family, str(key) if suffix else keys[key]) for key in told if key.kind == "world"]
        yield from _map("$route_family", f"$route_pool_world{suffix}", entries)


def _slots(routing: Routing, keys: dict[Key, str], ids: dict[str, str]) -> Iterator[str]:
    yield 'split_clients "$route_path" $route_slot {'
    yield from (f"    0.1% {slot};" for slot in range(SLOTS - 1))
    yield f"    * {SLOTS - 1};"
    yield "}"
    # One for each pool: a map of all their slots would take nginx a hash of its own size.
    named = {short: key for key, short in keys.items()}
    for short, key in named.items():
        yield f'split_clients "$route_path" $route_choice_of_{short} {{'
        for slot, names in enumerate(routing.pools[key]):
            part = "0.1%" if slot < SLOTS - 1 else "*"
            yield f'    {part} "{" ".join(ids[name] for name in names)}";'
        yield "}"
    yield from _map("$route_pool", "$route_choice", ((short, f"$route_choice_of_{short}") for short in named))


def _candidates(shown: dict[str, Mirror]) -> Iterator[str]:
    """Of each candidate, 0 is whom the client prefers: its short name, which is empty when it is not to be asked."""
    names = [
        (f"{family} {one.label}", short) for short, one in shown.items() for family in sorted(one.serving)
    ]
    yield from _map('"$route_family $route_prefer"', "$route_choice_0", names)
    yield from _map("$route_without", "$route_out", ((one.label, short) for short, one in shown.items()))
    for number in range(CANDIDATES + 1):
        if number:
            skipped = r"\S+ " * (number - 1)
            named = (rf"~^{skipped}(?<route_named_{number}>\S+)", f"$route_named_{number}")
            yield from _map("$route_choice", f"$route_choice_{number}", [named])
        # Not whom the client excludes, and not twice whom it prefers.
        before = "" if number == 0 else " $route_choice_0"
        excluded = r"~^(?:\S* )?(\S+)(?: \S*)? \1$"
        asked = f'"$route_out{before} $route_choice_{number}"'
        yield from _map(asked, f"$route_{number}", [(excluded, "")], f"$route_choice_{number}")
        yield from _map(
            f"$route_{number}", f"$route_host_{number}", ((k, host_of(m.url)) for k, m in shown.items())
        )
        yield from _map(
            f"$route_{number}", f"$route_url_{number}", ((k, page_of(m.url)) for k, m in shown.items())
        )
        yield from _map(f"$route_{number}", f"$route_name_{number}", ((k, m.label) for k, m in shown.items()))
