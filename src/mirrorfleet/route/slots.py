"""Files on slots, and slots on mirrors: pure.

A file's path chooses one of `SLOTS` slots by the hash that nginx has for it (`split_clients`), and a pool gives each
slot to a mirror, so that each file lies in few mirrors' page caches.

* How many slots a mirror has follows from its weight by the method of Sainte-Lague (Webster), which is monotone: when a
  mirror leaves, no other loses a slot. A share is exact to about half a slot.
* Which ones follows from weighted rendezvous: of each pair of slot and mirror there is a score, and as long as a mirror
  has room the best pairs are taken first.
* All members of a pool that could serve are given slots first, then the slots of those who do not serve now are given
  to the others in the same way. So a mirror that leaves or returns moves its own share only, and hosts that know the
  same members choose alike without telling each other.
"""

import functools
import hashlib
import heapq
import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence

SLOTS = 1000
_PART = 10 * 0xFFFFFFFF // 10000  # of the hashes; what split_clients makes of 0.1%


def murmur(data: bytes) -> int:
    """MurmurHash2 with the seed 0, as nginx's split_clients hashes (src/core/ngx_murmurhash.c)."""
    mix, mask = 0x5BD1E995, 0xFFFFFFFF
    found = len(data)
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        key = word * mix & mask
        found = found * mix & mask ^ ((key ^ key >> 24) * mix & mask)
    if whole < len(data):
        found = (found ^ int.from_bytes(data[whole:], "little")) * mix & mask
    found = (found ^ found >> 13) * mix & mask
    return found ^ found >> 15


def slot_of(path: str) -> int:
    """The slot of a file, by the path with which clients ask for it."""
    return min(murmur(path.encode()) // _PART, SLOTS - 1)


def apportion(weights: Mapping[str, int], seats: int) -> dict[str, int]:
    """How many of the seats each gets, in proportion to its weight (1 and more): Sainte-Lague's divisors 1, 3, 5, ...

    https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method; of equal quotients that of the first name counts.
    """
    total = sum(weights.values())
    # Whoever has a whole quota and more has it less one at least; only the last few seats are given one by one.
    got = {name: max(0, seats * weight // total - 1) for name, weight in weights.items()}
    queue = [(-weight / (2 * got[name] + 1), name) for name, weight in weights.items()]
    heapq.heapify(queue)
    for _ in range(seats - sum(got.values()) if weights else 0):
        _, name = queue[0]
        got[name] += 1
        heapq.heapreplace(queue, (-weights[name] / (2 * got[name] + 1), name))
    return got


@functools.lru_cache(10_000)
def _costs(name: str) -> tuple[float, ...]:
    """Of each slot what it costs a mirror of weight 1; the least cost, divided by the weight, is the best score."""
    digest = hashlib.shake_256(f"slots\n{name}".encode()).digest(4 * SLOTS)
    return tuple(-math.log((number + 1) / 2**32) for (number,) in struct.iter_unpack("<I", digest))


class Ranking:
    """The members of a pool by slot, the best score first."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.weights = weights
        self.names = sorted(weights)
        scores = [[cost / weights[name] for cost in _costs(name)] for name in self.names]
        everyone = range(len(self.names))
        self.scores = list(zip(*scores, strict=True))
        self.orders = [sorted(everyone, key=of_slot.__getitem__) for of_slot in self.scores]

    def give(self, slots: Iterable[int], room: Mapping[str, int]) -> dict[int, str]:
        """Each slot to a mirror with room: as if the best pairs of all were taken one after another.

        Slots ask mirrors by score and a mirror keeps the best that asked (Gale and Shapley); it has one outcome here.
        """
        rooms = [room.get(name, 0) for name in self.names]
        kept: list[list[tuple[float, int]]] = [[] for _ in self.names]  # the worst is at the top
        asked = [0] * SLOTS
        waiting = list(slots)
        while waiting:
            slot = waiting.pop()
            order, scores = self.orders[slot], self.scores[slot]
            while True:
                at = order[asked[slot]]
                asked[slot] += 1
                mine = (-scores[at], -slot)
                if len(kept[at]) < rooms[at]:
                    heapq.heappush(kept[at], mine)
                    break
                if rooms[at] and kept[at][0] < mine:
                    waiting.append(-heapq.heapreplace(kept[at], mine)[1])
                    break
        return {-slot: self.names[at] for at, some in enumerate(kept) for _, slot in some}


def assign(weights: Mapping[str, int], serving: Collection[str]) -> list[tuple[str, ...]]:
    """Of each slot who has it, and who would come next; nothing when nobody serves.

    `weights` are those of all members of the pool, `serving` is who of them can be sent a client now.
    """
    able = {name: weights[name] for name in serving}
    if not able:
        return []
    ranking = Ranking(weights)
    base = apportion(weights, SLOTS)
    owners = ranking.give(range(SLOTS), base)
    free = [slot for slot, name in owners.items() if name not in able]
    if free:
        wanted = apportion(able, SLOTS)
        owners |= ranking.give(free, {name: wanted[name] - base[name] for name in able})
    return [(owners[slot], *_next(ranking, slot, owners[slot], able)) for slot in range(SLOTS)]


def _next(ranking: Ranking, slot: int, owner: str, able: Collection[str], most: int = 2) -> list[str]:
    found: list[str] = []
    for at in ranking.orders[slot]:
        name = ranking.names[at]
        if name in able and name != owner:
            found.append(name)
            if len(found) == most:
                break
    return found


def moved(before: Sequence[tuple[str, ...]], after: Sequence[tuple[str, ...]]) -> list[int]:
    """The slots that have another mirror than before."""
    return [slot for slot, (one, other) in enumerate(zip(before, after, strict=True)) if one[:1] != other[:1]]
