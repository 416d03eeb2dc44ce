"""Which hosts an update changes, in what order, and whether the fleet can bear it now.

What hosts say may be anything, for they are lent: what is not of its type is taken as not told.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plugin_utils.status import News, Row, answer_of, mapping, versions_of
from plugin_utils.told import counted, printable, some
from plugin_utils.values import BadValueError

# What update_only names, and the version of a host that it changes.
PARTS = {"bandersnatch": "bandersnatch", "programs": "mirrorfleet", "web_server": "nginx"}
SYSTEM = "system"  # and what it names beside, of which no version is pinned
# By group the roles that bring a version, in their order, and what they restart where it changes.
ROLES = {
    "mirrors": ("web_server", "sync_client"),
    "origins": ("web_server", "origin"),
    "redirectors": ("document_server", "redirector"),
    "indexes": ("route", "web_server"),
    "trees": ("sync_client",),
    "monitors": ("document_server", "monitoring_server"),
}
OF_NGINX = ("document_server", "web_server")
SERVICES = {
    "redirector": "mirrorfleet-list",
    "route": "mirrorfleet-route",
    "monitoring_server": "mirrorfleet-probe",
}
# The fleet's own hosts, of which no list keeps clients away: one at a time, redirectors last.
OWN = ("origins", "monitors", "redirectors")
HELD_FOR_AN_UPDATE = "being updated from"  # how update.yml begins the reason of a hold

Versions = dict[str, str]
Left = tuple[str, str]  # why a mirror is left alone, and a detail


@dataclass(frozen=True)
class Mirror:
    """What the waves go by, of a mirror whose state is active."""

    name: str
    continent: str
    weight: float  # Mbit/s offered
    place: tuple[float, float, float]  # on the unit sphere
    upstream: str
    serves: bool  # clients are sent to it


@dataclass(frozen=True)
class Due:
    """A host that the change concerns."""

    name: str
    kind: str  # the group that says when its turn is
    roles: tuple[str, ...]  # that bring what is to change
    running: Versions
    wanted: Versions
    gated: Versions  # the last that passed the gate: where it goes back to
    unfinished: bool  # a run that ended left it in the middle
    tier: int = 1
    pending: tuple[str, ...] = ()  # packages of the system, and why it is to reboot
    settings: tuple[str, ...] = ()  # what of its configuration is not as declared

    @property
    def parts(self) -> list[str]:
        return [part for part, wanted in self.wanted.items() if not _is(self.running.get(part, ""), wanted)]

    @property
    def services(self) -> list[str]:
        """What lasts of our own programs on a host without a tree."""
        return [SERVICES[role] for role in self.roles if role in SERVICES]


def update_plan(
    answers: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
    registry: Mapping[str, Any],
    *,
    pins: Mapping[str, Any],
    now: int,
    hosts: Sequence[str],
    only: str = "",
    canary: str = "",
    off_share: Any = 0.25,
    capacity_floor: Any = 0.5,
    back: bool = False,
    offers: Mapping[str, str] | None = None,
    pending: Mapping[str, str] | None = None,
    settings: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The waves; what each host is to run; who is left alone and why; why the fleet cannot bear it, if so."""
    if only not in ("", *PARTS, SYSTEM):
        raise BadValueError(f"update_only is {only!r}", f"{', '.join([*PARTS, SYSTEM])}, or nothing at all")
    if back and only == SYSTEM:
        raise BadValueError(
            f"update_only is {only!r}", f"{', '.join(PARTS)}; packages of the system do not go back"
        )
    off_share = _share("fleet_update_off_share", off_share)
    capacity_floor = _share("fleet_update_capacity_floor", capacity_floor)
    records = _usable(registry)
    if canary and canary not in records:
        raise BadValueError(
            f"fleet_update_canary is {canary!r}", f"a mirror of this fleet: {some(sorted(records))}"
        )
    asked = {name: answer_of(result) for name, result in answers.items()}
    news = News(asked, groups, now)
    update = {"pins": dict(pins), "only": only}
    taken_back = _last_update([asked[name].status for name in hosts if name in asked], pins, now)
    due: list[Due] = []
    left: dict[str, dict[str, str]] = {}
    for name in hosts:
        answer = asked.get(name) or answer_of({})
        if not answer.status:
            left.setdefault(SILENT, {})[name] = printable(answer.problem)
            continue
        goal = (
            functools.partial(_former, taken_back, only, offered=(offers or {}).get(name, ""))
            if back
            else functools.partial(_wanted, records.get(name, {}), pins, only)
        )
        of_system = _pending((pending or {}).get(name, ""), answer.status, pins) if only == SYSTEM else ()
        if of_system is None:
            left.setdefault(UNTOLD, {})[name] = ""
            continue
        differs = tuple((settings or {}).get(name, ()))
        found = _found(answer.status, news.holds.get(name), goal, of_system, differs)
        if isinstance(found, Due):
            kinds = [kind for kind in ROLES if name in groups.get(kind, ())] or ["mirrors"]
            kind = next((one for one in reversed(OWN) if one in kinds), "mirrors")
            tier = int(records.get(name, {}).get("tier") or 1)
            due.append(replace(found, name=name, kind=kind, roles=_roles(kinds, only), tier=tier))
        else:
            why, detail = found
            left.setdefault(why, {})[name] = detail
    silent = list(left.get(SILENT, {}))
    fleet = _active(records, news)
    mirrors = [one for one in due if one.kind == "mirrors"]
    planned = waves(_ordered(mirrors, fleet, canary), fleet, capacity_floor)
    own = sorted(
        (one for one in due if one.kind != "mirrors"), key=lambda one: (OWN.index(one.kind), one.name)
    )
    # What a former run left in the middle is taken up first of all.
    first = [one for one in own if one.unfinished]
    then = [one for one in own if not one.unfinished]
    order = [*([one] for one in first), *planned.waves, *([one] for one in then)]
    refused = list(_refused(due, silent, fleet, news, off_share)) if due else []
    if news.redirector is not None:
        refused += _at_their_floor(planned.stuck, fleet)
    return {
        "hosts": [one.name for wave in order for one in wave],
        "sizes": [len(wave) for wave in order],
        "canary": planned.waves[0][0].name if planned.waves else "",
        "due": {one.name: _told(one) for one in due},
        "left": left,
        "silent": silent,
        "stuck": left.get(STUCK, {}),
        "of": update,
        "refused": refused,
        "redirector": news.redirector,
        "lines": _lines(first, planned, then, left, "take back" if back else "update"),
    }


def update_wave(
    result: Any,
    redirector: str,
    registry: Mapping[str, Any],
    *,
    wave: Sequence[str],
    now: int,
    capacity_floor: Any = 0.5,
) -> dict[str, Any]:
    """Whether the fleet still bears a wave that was planned, by the list now, and who of it a person holds."""
    news = News({redirector: answer_of(result)}, {"redirectors": [redirector]}, now)
    if news.redirector is None:
        return {
            "refused": [f"{redirector} no longer tells its list, so who serves is not known."],
            "held": {},
        }
    fleet = _active(_usable(registry), news)
    held = {
        name: f"held: {one['reason']}"
        for name, one in news.holds.items()
        if name in wave and not _for_an_update(one)
    }
    capacity = _Capacity(fleet, _share("fleet_update_capacity_floor", capacity_floor))
    lost: dict[str, float] = {}
    stuck: dict[str, list[str]] = {}
    for one in (fleet[name] for name in wave if name in fleet and name not in held):
        if one.serves and not capacity.bears(one, lost):
            stuck.setdefault(one.continent, []).append(one.name)
        elif one.serves:
            lost[one.continent] = lost.get(one.continent, 0) + one.weight
    return {"refused": list(_at_their_floor(stuck, fleet)), "held": held}


SILENT = "Did not answer, so left as they are"
UNTOLD = "Left alone, for apt does not say what is pending (apt-get update there)"
STUCK = "Cannot go back, so left as they are"


def _found(
    status: Mapping[str, Any],
    held: Row | None,
    goal: Callable[[Mapping[str, Any], Versions, Versions], Versions | Left],
    pending: tuple[str, ...],
    settings: tuple[str, ...],
) -> Due | Left:
    """What a host is due for, all but its name and whose it is; or why it is left alone."""
    if not status.get("provisioned"):
        return "Never provisioned, so left alone; see playbooks/provision.yml", ""
    running = versions_of(status.get("versions"))
    noted = mapping(status.get("update"))
    unfinished = bool(noted) or bool(held and _for_an_update(held))
    if held and not unfinished:
        by = f" by {held['by']}" if held["by"] else ""
        return "Left alone, for they are held", f"held{by}: {held['reason']}"
    installed = running if status.get("nginx") in ("running", "stopped") else running | {"nginx": ""}
    gated = versions_of(noted.get("gated")) or installed
    wanted = goal(status, running, gated)
    if isinstance(wanted, tuple):
        return wanted
    found = Due("", "", (), running, wanted, gated, unfinished, pending=pending, settings=settings)
    if not found.parts and not pending and not settings and not unfinished:
        return "Left alone, for they run what is pinned", ""
    refused = mapping(status.get("tree")).get("refused")
    # A changed setting may be what mends it.
    if refused and not unfinished and not settings:
        # Neither the former programs nor the new ones would sync, and it would be off the list for nothing.
        return "Left alone, for its sync is refused", printable(refused)
    return found


def _roles(kinds: Iterable[str], only: str) -> tuple[str, ...]:
    """Those that bring the part that is to change, each once."""
    found = dict.fromkeys(role for kind in kinds for role in ROLES[kind] if only != SYSTEM)
    return tuple(role for role in found if not only or (role in OF_NGINX) == (only == "web_server"))


def _wanted(
    record: Mapping[str, Any],
    pins: Mapping[str, Any],
    only: str,
    status: Mapping[str, Any],
    running: Versions,
    _gated: Versions,
) -> Versions:
    """What is pinned of the parts that are to change, what runs of the others."""
    platform = str(status.get("platform"))
    pinned = {
        "mirrorfleet": pins.get("mirrorfleet"),
        "bandersnatch": mapping(pins.get("bandersnatch")).get(platform)
        if (record or mapping(status.get("tree"))).get("mode") == "bandersnatch"
        else None,
        "nginx": mapping(pins.get("nginx")).get(platform),
    }
    if only == SYSTEM and _is(running.get("nginx", ""), str(pinned["nginx"])):
        # Within its pin it moves with the system.
        running = {**running, "nginx": str(pinned["nginx"])}
    if only:
        pinned |= {part: running.get(part) for part in pinned if part != PARTS.get(only)}
    return {part: str(version) for part, version in pinned.items() if version}


def _pending(said: str, status: Mapping[str, Any], pins: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What apt would bring, by the words of its simulation; nginx within its pin alone. None where apt failed."""
    lines = said.splitlines()
    if "That is all" not in lines:
        return None
    kept = str(mapping(pins.get("nginx")).get(str(status.get("platform"))))
    moved = re.findall(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+)", said, re.MULTILINE)
    found = [printable(name, 60) for name, version in moved if name != "nginx" or _is(version, kept)]
    return (*found, *(["a reboot"] if "Reboot" in lines else []))


def _last_update(
    statuses: Iterable[Mapping[str, Any]], pins: Mapping[str, Any], now: int
) -> Mapping[str, Any]:
    """The one that is taken back: the newest that came to its end anywhere, if it is to what is pinned now.

    Once the former versions are pinned, update.yml brings them, and an update from before that stays where it is.
    """
    told = [mapping(status.get("former")) for status in statuses]
    # What a clock that was ahead noted is of no known time.
    dated = [one for one in told if isinstance(one.get("at"), int) and one["at"] <= now]
    update = mapping(max(dated, key=lambda one: one["at"], default={}).get("update"))
    return update if update.get("pins") == pins else {}


def _former(
    update: Mapping[str, Any],
    only: str,
    status: Mapping[str, Any],
    running: Versions,
    gated: Versions,
    *,
    offered: str,
) -> Versions | Left:
    """What passed the gate before the update, or why the host does not go back there.

    In the middle of an update it is what passed last; in the middle of going back, where that went.
    """
    noted, former = mapping(status.get("update")), mapping(status.get("former"))
    if noted:
        found = versions_of(noted.get("wanted")) if noted.get("back") is True else gated
    elif not update or former.get("update") != update:
        return "Left alone, for no update to what is pinned now changed them", ""
    else:
        found = versions_of(former.get("versions"))
    if not noted and found == running:
        return "Left alone, for they run what they ran before", ""
    if only:
        found = running | {part: version for part, version in found.items() if part == PARTS[only]}
    # While a note is there nothing removes what it names.
    kept = list(found) if noted else former.get("installed")
    there = {part for part in PARTS.values() if part != "nginx" and isinstance(kept, list) and part in kept}
    if found.get("nginx") in [
        one[1].strip() for line in offered.splitlines() if len(one := line.split("|")) > 1
    ]:
        there.add("nginx")
    gone = [
        f"{part} {version} is {'in none of its archives' if part == 'nginx' else 'no longer installed'}"
        for part, version in found.items()
        if version != running.get(part) and part not in there
    ]
    if gone:
        return STUCK, f"{', '.join(gone)}; the other parts by -e update_only={'|'.join(PARTS)}"
    return found


def _is(running: str, wanted: str) -> bool:
    return fnmatch.fnmatchcase(running, wanted)


def _for_an_update(held: Row) -> bool:
    return bool(held["reason"].startswith(HELD_FOR_AN_UPDATE))


def _usable(registry: Mapping[str, Any]) -> dict[str, Row]:
    return {str(one["name"]): one for one in registry["mirrors"] if "problem" not in one}


def _active(records: Mapping[str, Row], news: News) -> dict[str, Mirror]:
    return {name: _mirror(one, news) for name, one in records.items() if one["state"] == "active"}


def _mirror(record: Mapping[str, Any], news: News) -> Mirror:
    location = record["location"]
    latitude, longitude = (math.radians(location.get(key) or 0) for key in ("latitude", "longitude"))
    standing = mapping(news.standings.get(record["name"]))
    return Mirror(
        str(record["name"]),
        str(location["continent"]),
        float(record["bandwidth"]),
        (
            math.cos(latitude) * math.cos(longitude),
            math.cos(latitude) * math.sin(longitude),
            math.sin(latitude),
        ),
        str(record.get("upstream") or ""),
        standing.get("listed") is True,
    )


def update_differs(result: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """How what a host says that it runs differs from what it is to run; that it says nothing does, too."""
    answer = answer_of(result)
    if not answer.status:
        return [printable(answer.problem)]
    running = versions_of(answer.status.get("versions"))
    # Of an nginx that goes on below a replaced file: what is installed.
    if replaced := re.fullmatch(r"runs what (\S+) was to replace", str(answer.status.get("nginx"))):
        running["nginx"] = replaced[1]
    differs = [
        f"{part} is {running.get(part) or 'not there'}, not {version}"
        for part, version in versions_of(wanted).items()
        if not _is(running.get(part, ""), version)
    ]
    stopped = "nginx" in wanted and answer.status.get("nginx") == "stopped"
    return differs + (["nginx does not run"] if stopped else [])


# --- the order and the waves ---


def _ordered(due: Iterable[Due], fleet: Mapping[str, Mirror], canary: str) -> list[Due]:
    """What a former run left first, then the canary, tiers from the top, and last whom no client is sent to."""

    def serves(one: Due) -> bool:
        return one.name in fleet and fleet[one.name].serves

    found = sorted(due, key=lambda one: (not one.unfinished, not serves(one), one.tier, one.name))
    fresh = [one for one in found if not one.unfinished]
    if not fresh:
        return found
    # Automatic: concerned by most of what changes, and with the fewest clients, who come by what a mirror offers.
    first = min(
        fresh,
        key=lambda one: (
            one.name != canary,
            not serves(one),
            -len(one.parts) - bool(one.settings),
            fleet[one.name].weight if one.name in fleet else 0,
            one.name,
        ),
    )
    return [
        *(one for one in found if one.unfinished),
        first,
        *(one for one in fresh if one is not first),
    ]


@dataclass(frozen=True)
class Planned:
    """The waves, and by continent at its floor who would have been in one."""

    waves: list[list[Due]]
    stuck: dict[str, list[str]]


def waves(due: Sequence[Due], fleet: Mapping[str, Mirror], capacity_floor: float) -> Planned:
    """One, two, a tenth, then a quarter of the mirrors at a time; as many of each as may be away at once."""
    capacity = _Capacity(fleet, capacity_floor)
    back = [fleet[one.name] for one in due if one.unfinished and one.name in fleet]
    then = capacity.with_those(back)
    stuck: dict[str, list[str]] = {}
    for own in (fleet[one.name] for one in due if one.name in fleet):
        if own.serves and not then.bears(own, {}):
            stuck.setdefault(own.continent, []).append(own.name)
    left = list(due)
    apart = _apart([fleet[one.name] for one in due if one.name in fleet], fleet)
    sizes, found = _sizes(len(due)), []
    while left:
        size, wave, rest = next(sizes), list[Due](), list[Due]()
        lost: dict[str, float] = {}
        names: set[str] = set()
        for one in left:
            mirror = fleet.get(one.name)
            fits = len(wave) < size and (
                mirror is None
                or not mirror.serves
                or (not apart[one.name] & names and capacity.bears(mirror, lost))
            )
            # One at its floor goes alone: whoever asks is told (`stuck`), and may insist.
            if fits or (not wave and one is left[0]):
                wave.append(one)
                names.add(one.name)
                if mirror and mirror.serves:
                    lost[mirror.continent] = lost.get(mirror.continent, 0) + mirror.weight
            else:
                rest.append(one)
        found.append(wave)
        left = rest
        capacity = capacity.with_those(one for one in back if one.name in names)
    return Planned(found, stuck)


def _sizes(count: int) -> Iterator[int]:
    yield 1
    yield 2
    yield max(2, math.ceil(count / 10))
    while True:
        yield max(2, math.ceil(count / 4))


class _Capacity:
    """What a continent's mirrors offer, and how much of it is to stay."""

    def __init__(self, fleet: Mapping[str, Mirror], share: float) -> None:
        self.spare: dict[str, float] = {}
        for continent in {one.continent for one in fleet.values()}:
            weights = [(one.weight, one.serves) for one in fleet.values() if one.continent == continent]
            offered = sum(weight for weight, _ in weights)
            # Where there are few, one of them may always be away while all others serve.
            floor = min(share * offered, offered - max(weight for weight, _ in weights))
            self.spare[continent] = sum(weight for weight, serves in weights if serves) - floor

    def with_those(self, back: Iterable[Mirror]) -> _Capacity:
        """As it is once those serve who do not yet."""
        found = copy.copy(self)
        found.spare = dict(self.spare)
        for one in back:
            found.spare[one.continent] += 0 if one.serves else one.weight
        return found

    def bears(self, one: Mirror, lost: Mapping[str, float]) -> bool:
        """Whether it may be away, too, with those who are lost to the list by now."""
        return lost.get(one.continent, 0) + one.weight <= self.spare[one.continent]


def _apart(due: Sequence[Mirror], fleet: Mapping[str, Mirror]) -> dict[str, set[str]]:
    """By mirror those that are not to be away with it: its upstream, and whose clients it is the next to take over."""
    near: dict[str, list[Mirror]] = {}
    for one in fleet.values():
        if one.serves:
            near.setdefault(one.continent, []).append(one)
    found: dict[str, set[str]] = {one.name: set() for one in due}
    for one in due:
        x, y, z = one.place
        # The largest product of two places on the sphere is the shortest way.
        others = (
            (x * o.place[0] + y * o.place[1] + z * o.place[2], o.name) for o in near.get(one.continent, ())
        )
        backs = max((way for way in others if way[1] != one.name), default=(0, ""))[1]
        for other in filter(None, (backs, one.upstream)):
            found[one.name].add(other)
            found.setdefault(other, set()).add(one.name)
    return found


# --- whether the fleet can bear it ---


def _refused(
    due: Sequence[Due], silent: Sequence[str], fleet: Mapping[str, Mirror], news: News, off_share: float
) -> Iterator[str]:
    """Why no wave starts: a line each, with the names and the key that overrides it for this run alone."""
    if news.redirector is None:
        yield (
            "No redirector tells its list, so who serves is not known. Next: see why it does not answer "
            "(playbooks/status.yml), then run this playbook again."
        )
        return
    # What a run left in the middle is what this one is there for.
    mended = {one.name for one in due if one.unfinished} | {
        name for name, held in news.holds.items() if _for_an_update(held)
    }
    off = sorted(
        {name for name, one in fleet.items() if not one.serves} - mended | (set(silent) & fleet.keys())
    )
    if len(off) > max(1, off_share * len(fleet)):
        yield (
            f"{len(off)} of {len(fleet)} mirrors are off the list, held or silent: {some(off)}. Allowed: a share of "
            f"{off_share:g}, and one of few. Next: see why (playbooks/status.yml -e status_only=problems), or "
            "insist, for this run alone: -e fleet_update_off_share=1"
        )


def _at_their_floor(stuck: Mapping[str, Sequence[str]], fleet: Mapping[str, Mirror]) -> Iterator[str]:
    for continent, names in sorted(stuck.items()):
        away = sorted(one.name for one in fleet.values() if one.continent == continent and not one.serves)
        yield (
            f"{continent} is at its floor: {some(away) or 'nobody'} is off the list there, and {some(names)} would be, "
            "too. Next: bring back who is off, or leave these out (--limit), or insist, for this run alone: "
            "-e fleet_update_capacity_floor=0"
        )


# --- as it is told ---


def _told(one: Due) -> dict[str, Any]:
    return {
        "kind": one.kind.removesuffix("s"),
        "roles": list(one.roles),
        "services": one.services,
        "wanted": one.wanted,
        "gated": one.gated,
        "parts": one.parts,
        "settings": list(one.settings),
        "unfinished": one.unfinished,
        "change": _change(one),
    }


def _change(one: Due) -> str:
    told = []
    restarts = {"nginx": ["nginx"], "mirrorfleet": one.services}
    for part in one.parts:
        more = f" (restarts {', '.join(names)})" if (names := restarts.get(part)) else ""
        told.append(f"{part} {one.running.get(part) or 'none'} -> {one.wanted[part]}{more}")
    if one.settings:
        told.append(f"configuration: {some(one.settings)}")
    if one.pending:
        told.append(f"pending: {some(one.pending)}")
    return ", ".join(told) or "as it is"


def _lines(
    first: Sequence[Due],
    planned: Planned,
    then: Sequence[Due],
    left: Mapping[str, Mapping[str, str]],
    what: str,
) -> list[str]:
    count, alone = sum(len(wave) for wave in planned.waves), sum(len(names) for names in left.values())
    own = len(first) + len(then)
    also = f", and {counted(own, 'host')} of the fleet's own, one at a time" if own else ""
    lines = [
        f"{counted(count, 'mirror')} to {what}, in {counted(len(planned.waves), 'wave')}{also}; {alone} left alone."
    ]
    lines += [_own_line("first of all", one) for one in first]
    for number, wave in enumerate(planned.waves, 1):
        alike: dict[str, list[str]] = {}
        for one in wave:
            alike.setdefault(_line(one), []).append(one.name)
        lines += [f"  wave {number}: {', '.join(names)}: {line}" for line, names in alike.items()]
    lines += [_own_line("then", one) for one in then]
    for why, names in left.items():
        by_detail: dict[str, list[str]] = {}
        for name, detail in sorted(names.items()):
            by_detail.setdefault(f": {detail}" if why == STUCK else "", []).append(name)
        lines += [f"  {why}: {some(those)}{detail}" for detail, those in by_detail.items()]
    return lines


def _line(one: Due) -> str:
    return _change(one) + ("; left in the middle by a former run" if one.unfinished else "")


def _own_line(when: str, one: Due) -> str:
    return f"  {when}: {one.name} ({one.kind.removesuffix('s')}): {_line(one)}"


def _share(key: str, value: Any) -> float:
    """As it is said in fleet.yml, or typed (-e)."""
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise BadValueError(f"{key} is {value!r}", "a share from 0 to 1, such as 0.5")
    return share
