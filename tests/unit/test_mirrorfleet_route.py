"""The redirector's choice as a pure function: shares, movement, coverage, locality."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorfleet.route.pools import CANDIDATES, Client, Key, Mirror, route
from mirrorfleet.route.slots import SLOTS, apportion, assign, moved, murmur, slot_of

BOTH = frozenset({"ipv4", "ipv6"})
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
WEIGHTS = st.dictionaries(NAMES, st.integers(1, 100_000), min_size=1, max_size=12)


def mirror(name: str, **changes: Any) -> Mirror:
    given = {"url": f"https://{name}.example.org", "weight": 100, "country": "NZ", "continent": "OC"}
    return Mirror(name, **(given | {"serving": BOTH} | changes))


def owners(pool: Any) -> dict[str, int]:
    return {name: sum(slot[0] == name for slot in pool) for slot in pool for name in slot[:1]}


def test_the_hash_is_nginxs():
    # Of SMHasher's MurmurHash2 with the seed 0.
    assert [murmur(text) for text in (b"", b"a", b"abc", b"abcd", b"hello world")] == [
        0,
        0x92685F5E,
        0x13577C9B,
        0x26873021,
        0x44A81419,
    ]


@given(st.text())
def test_every_path_has_a_slot(path: str):
    assert 0 <= slot_of(path) < SLOTS


def test_paths_spread_over_the_slots():
    found = [0] * SLOTS
    for number in range(200_000):
        found[slot_of(f"/packages/{number % 251:02x}/{number}/name-1.{number}.tar.gz")] += 1
    assert min(found) > 120 and max(found) < 290


@given(WEIGHTS)
@settings(deadline=None, max_examples=40)
def test_shares_are_those_of_the_weights(weights: dict[str, int]):
    """Within half a slot, a twentieth of a point of the pool, and 1 % of itself."""
    got, total = apportion(weights, SLOTS), sum(weights.values())
    assert sum(got.values()) == SLOTS
    for name, weight in weights.items():
        quota = SLOTS * weight / total
        assert abs(got[name] - quota) <= 0.5 + 0.01 * quota
    assert got == dict.fromkeys(weights, 0) | owners(assign(weights, weights))


@given(WEIGHTS, st.data())
@settings(deadline=None, max_examples=40)
def test_a_mirror_that_leaves_moves_its_own_share_alone(weights: dict[str, int], data: Any):
    leaver = data.draw(st.sampled_from(sorted(weights)))
    before = assign(weights, weights)
    after = assign(weights, weights.keys() - {leaver})
    if len(weights) == 1:
        assert after == []
        return
    assert {before[slot][0] for slot in moved(before, after)} <= {leaver}
    assert all(slot[0] != leaver for slot in after)
    # and what moved is shared by weight, too
    rest = {name: weight for name, weight in weights.items() if name != leaver}
    assert dict.fromkeys(rest, 0) | owners(after) == apportion(rest, SLOTS)


@given(WEIGHTS, st.data())
@settings(deadline=None, max_examples=40)
def test_every_slot_is_some_serving_mirrors(weights: dict[str, int], data: Any):
    serving = data.draw(st.sets(st.sampled_from(sorted(weights))))
    pool = assign(weights, serving)
    assert len(pool) == (SLOTS if serving else 0)
    for slot in pool:
        assert set(slot) <= serving
        assert len(slot) == len(set(slot)) == min(len(serving), 3)


def test_the_order_in_which_mirrors_are_told_does_not_count():
    weights = {"a": 7, "b": 7, "c": 7, "d": 100}
    assert assign(weights, ["a", "c", "d"]) == assign(dict(reversed(weights.items())), ["d", "c", "a"])


HERE = Client("192.0.2.1", "AS64500", "NZ", "OC")


@pytest.mark.parametrize(
    ("nearest", "pool"),
    [
        ({"networks": ("192.0.2.0/24", "192.0.0.0/16")}, "network 192.0.2.0/24 over IPv4"),
        ({"networks": ("192.0.0.0/16", "AS64500")}, "network 192.0.0.0/16 over IPv4"),
        ({"networks": ("AS64500",), "country": "DE", "continent": "EU"}, "as AS64500 over IPv4"),
        ({"country": "NZ"}, "country NZ over IPv4"),
        ({"country": "AU"}, "continent OC over IPv4"),
        ({"country": "DE", "continent": "EU"}, "world over IPv4"),
    ],
)
def test_the_narrowest_pool_with_a_mirror_that_serves_is_the_clients(nearest: dict[str, Any], pool: str):
    far = mirror("far", country="BR", continent="SA", networks=("198.51.100.0/24",))
    fleet = [far, mirror("near", **nearest)]
    assert str(route(fleet).pool_of(HERE)) == pool
    # A mirror that does not serve makes no pool.
    gone = route([far, mirror("near", **nearest | {"serving": frozenset()})])
    assert str(gone.pool_of(HERE)) == "world over IPv4"
    assert gone.choose(HERE, "/packages/x").candidates == ("far",)


def test_a_client_is_sent_only_where_its_address_family_is_served():
    fleet = [mirror("four", serving=frozenset({"ipv4"})), mirror("six", families=("ipv6",))]
    routing = route(fleet)
    for number in range(100):
        assert routing.choose(HERE, f"/packages/{number}").candidates == ("four",)
        assert routing.choose(Client("2001:db8::1"), f"/packages/{number}").candidates == ("six",)


def test_a_label_excludes_or_prefers_and_never_leaves_a_client_without_a_way_out():
    routing = route([mirror(name) for name in "abc"])
    first = routing.choose(HERE, "/packages/x").candidates
    assert len(first) == 3
    assert routing.choose(HERE, "/packages/x", without=first[0]).candidates == first[1:]
    preferred = routing.choose(HERE, "/packages/x", prefer=first[2])
    assert preferred.candidates == (first[2], *first[:2])
    assert preferred.reason == "the client prefers it"
    assert routing.choose(HERE, "/packages/x", prefer="unknown").candidates == first
    # One that does not serve is nobody's preference.
    routing = route([mirror("a"), mirror("b", serving=frozenset())])
    assert routing.choose(HERE, "/packages/x", prefer="b").candidates == ("a",)
    assert routing.choose(HERE, "/packages/x", without="a").candidates == ()


def test_without_any_mirror_a_trusted_host_serves():
    for fleet in ([], [mirror("a", serving=frozenset())]):
        routing = route(fleet)
        assert routing.pools == {}
        choice = routing.choose(HERE, "/packages/x")
        assert (choice.pool, choice.candidates) == (None, ())
        assert "trusted host" in choice.reason


def test_the_last_candidate_is_from_beyond_the_pool():
    near = [mirror(name, networks=("192.0.2.0/24",)) for name in ("a", "b", "c", "d")]
    routing = route([*near, *(mirror(name, country="DE", continent="EU") for name in ("x", "y"))])
    last = {routing.choose(HERE, f"/packages/{number}").candidates[2] for number in range(300)}
    assert last & {"x", "y"}
    for key, pool in routing.pools.items():
        assert all(len(slot) == CANDIDATES == len(set(slot)) for slot in pool), key


@given(
    st.lists(
        st.builds(
            mirror,
            NAMES,
            weight=st.integers(1, 10_000),
            country=st.sampled_from(["NZ", "AU", "DE", "FR"]),
            networks=st.sets(
                st.sampled_from(["AS64500", "192.0.2.0/24", "192.0.0.0/16", "2001:db8::/32"])
            ).map(tuple),
            serving=st.sets(st.sampled_from(["ipv4", "ipv6"])).map(frozenset),
        ),
        max_size=8,
        unique_by=lambda one: one.name,
    ),
    st.sampled_from(["192.0.2.9", "192.0.9.9", "198.51.100.1", "2001:db8::9", "::1"]),
)
@settings(deadline=None, max_examples=30)
def test_whoever_can_be_served_by_a_mirror_is(fleet: list[Mirror], address: str):
    continents = {"NZ": "OC", "AU": "OC", "DE": "EU", "FR": "EU"}
    fleet = [replace(one, continent=continents[one.country]) for one in fleet]
    client = Client(address, "", "AU", "OC")
    family = client.family
    choice = route(fleet).choose(client, "/packages/x")
    able = {one.name for one in fleet if family in one.serving}
    assert set(choice.candidates) <= able
    assert len(choice.candidates) == min(len(able), CANDIDATES)
    if able and choice.pool:
        first = next(one for one in fleet if one.name == choice.candidates[0])
        if choice.pool.kind == "network":
            assert ipaddress.ip_address(address) in ipaddress.ip_network(choice.pool.value)
            assert choice.pool.value in first.networks


def test_pools_of_the_same_mirrors_are_one():
    pools = route([mirror("a"), mirror("b")]).pools
    assert pools[Key("ipv4", "world")] is pools[Key("ipv6", "world")]
    assert pools[Key("ipv4", "country", "NZ")] == pools[Key("ipv4", "world")]


@given(st.permutations([mirror(f"m{number}", weight=number * 97 + 1) for number in range(6)]), st.data())
@settings(deadline=None, max_examples=20)
def test_two_redirectors_choose_alike(one: list[Mirror], data: st.DataObject):
    """Of whatever was known in whatever order: of all files, for all clients."""
    places = [("NZ", "OC"), ("AU", "OC"), ("DE", "EU")]
    here = [
        replace(each, country=country, continent=continent, networks=("AS64500",) if number % 2 else ())
        for number, each in enumerate(sorted(one, key=lambda each: each.name))
        for country, continent in [places[number % 3]]
    ]
    there = data.draw(st.permutations(here))
    assert route(here).pools == route(there).pools
