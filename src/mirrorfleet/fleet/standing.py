"""Who is listed, and why: pure functions from the registry and what was measured to each mirror's standing.

A record decides who could serve, measurement decides who does:

* What a person decided (drained, retired, held, an agreement that lapsed) and a broken record count at once.
* Each monitor is a vote. A mirror leaves when more than half of those that can tell say so, and returns when more than
  half do; where they are of two minds in equal numbers, it stays where it is.
* A wrong hash counts at once, whoever found it, and until an audit of that monitor that began after it has passed.
* Failed probes count after `fall` in a row. A mirror that left by measurement comes back after `rise` good ones in a
  row, after a pause that doubles with each leave, and after an audit.
* Each address family of a mirror stands by itself, by the same rules: one that fails is withdrawn and the mirror stays
  for the other. It leaves when none is left.
* A monitor that is silent, cannot reach the reference, or sees most of the list fail at once is held to be cut off
  itself: it has no vote. It may be so in one family only. Where none has a vote nothing changes for what was measured.
* A run that would empty the list, or drop more than a share of it at once, is refused as a whole.
"""

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..common.config import bounded
from .evidence import printable
from .registry import Registry

Code = Literal[
    "listed", "invalid", "retired", "gone", "drained", "held", "agreement", "tampered",
    "unmeasured", "silent", "failing", "stale", "returning", "audit", "damped", "waiting",
]  # fmt: skip
# Codes by which measurement, not a person, took a mirror off the list. To be silent is no fault of its own.
MEASURED: frozenset[Code] = frozenset({"tampered", "failing", "stale"})
# Whatever is wrong with the share of mirrors that leaves at once, these leave.
AT_ONCE: frozenset[Code] = frozenset({"tampered", "held"})
# Codes by which a monitor says that it knows nothing.
UNKNOWN: frozenset[Code] = frozenset({"unmeasured", "silent"})
HIDDEN: frozenset[Code] = frozenset({"retired", "gone"})
FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
# So few mirrors may well fail at once; the guard against an empty list looks after them.
FEWEST_FOR_CUT_OFF = 3


@dataclass(frozen=True)
class Settings:
    """When a mirror leaves, and when it returns."""

    fall: int = bounded(1, 1000, default=3)  # rounds that fail in a row until a mirror leaves
    rise: int = bounded(1, 1000, default=5)  # good rounds in a row until it returns
    damping_seconds: int = bounded(0, default=1800)  # shortest time off the list; doubles with each leave
    damping_limit_seconds: int = bounded(0, default=86400)
    flap_window_seconds: int = bounded(0, default=86400)  # how long a leave counts for that doubling
    audit_required: bool = True  # whether a mirror needs an audit to join and to return
    audit_fall: int = bounded(1, 1000, default=2)  # audits that fail in a row until a mirror leaves
    silence_seconds: int = bounded(1, default=900)  # age at which measurements say nothing any more
    cut_off_share: float = bounded(0, 1, default=0.5)
    drop_share: float = bounded(0, 1, default=0.3)
    clock_tolerance_seconds: int = bounded(0, default=300)  # how far a mirror's clock may be ahead


@dataclass(frozen=True)
class Rounds:
    """Consecutive rounds in one address family, of which either `good` or `bad` is 0."""

    good: int = 0
    bad: int = 0
    problem: str = ""  # what failed in the last


@dataclass(frozen=True)
class Health:
    """What the monitor found of a mirror; `good` and `bad` count rounds as `Rounds` does, in all families together."""

    measured_at: int
    good: int = 0
    bad: int = 0
    problem: str = ""
    serial: int | None = None
    last_modified: int | None = None
    lag: int | None = None  # seconds since the reference has had what the mirror has not
    tampered_at: int | None = None
    families: Mapping[str, Rounds] = field(default_factory=dict)  # a monitor of before does not tell

    def over(self, family: str) -> "Health":
        """The same with the rounds of one family."""
        return replace(self, **vars(self.families.get(family, Rounds()))) if self.families else self

    @property
    def deaf(self) -> bool:
        """Whether the last round was good in no family."""
        return self.bad > 0 and all(one.bad > 0 for one in self.families.values())


@dataclass(frozen=True)
class Passed:
    """The last time that an audit began which passed in one address family, and how those since then failed in it."""

    passed_at: int | None = None
    problem: str = ""
    failures: int = 0  # in a row


@dataclass(frozen=True)
class Audit:
    """The last time that an audit of a mirror began which passed, and that one found a wrong hash."""

    passed_at: int | None = None
    tampered_at: int | None = None
    problem: str = ""
    failures: int = 0  # in a row
    families: Mapping[str, Passed] = field(default_factory=dict)  # a monitor of before does not tell

    def over(self, family: str) -> "Audit":
        """The same with what was found in one family."""
        return replace(self, **vars(self.families.get(family, Passed()))) if self.families else self

    @property
    def cleared_at(self) -> int | None:
        """When an audit last passed in any family, and so found no wrong hash."""
        passed = (self.passed_at, *(one.passed_at for one in self.families.values()))
        return max((at for at in passed if at is not None), default=None)


@dataclass(frozen=True)
class Monitor:
    """One monitor, and what it found of each mirror."""

    at: int  # when it told
    reference_problem: str = ""
    started: int = 0  # before that, that it measured nothing says nothing of a mirror
    name: str = ""
    families: Collection[str] = tuple(FAMILIES)  # that it has itself
    health: Mapping[str, Health] = field(default_factory=dict)
    audits: Mapping[str, Audit] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """Where a mirror, or one address family of it, stands, and since when."""

    listed: bool
    code: Code
    reason: str  # why it is not listed; empty when it is
    since: int = bounded(0)  # when `code` came to be
    next: str = ""  # what happens next
    left: int | None = bounded(0, default=None)  # when it left by measurement, until it is back
    leaves: tuple[int, ...] = ()  # when it left by measurement lately
    tampered: Mapping[str, int] = field(default_factory=dict)  # by monitor, when it last found a wrong hash
    joined: int | None = bounded(0, default=None)  # when it was listed for the first time
    families: Mapping[str, "Standing"] = field(
        default_factory=dict
    )  # of a mirror: each family that it claims

    @property
    def _newest(self) -> int:
        own = (self.since, self.left or 0, self.joined or 0, *self.leaves, *self.tampered.values())
        return max(*own, *(one._newest for one in self.families.values()))

    def of_now(self, now: int, latest: int) -> "Standing":
        """Without what a clock that was ahead noted, as later than `latest`: nobody waits for such a time."""

        def come(at: int | None, otherwise: int | None) -> int | None:
            return otherwise if at is not None and at > latest else at

        if self._newest <= latest:
            return self
        return replace(
            self,
            since=now if self.since > latest else self.since,
            left=come(self.left, 0),
            leaves=tuple(at for at in self.leaves if at <= latest),
            # When it really was its monitor knows.
            tampered={name: at for name, at in self.tampered.items() if at <= latest},
            joined=come(self.joined, now),
            families={family: one.of_now(now, latest) for family, one in self.families.items()},
        )

    def over(self, family: str) -> "Standing":
        """Where one family stands: where the mirror does, as long as that is all that is known."""
        return self.families.get(
            family, replace(self, families={}) if not self.families else _new(self.since)
        )

    @property
    def listed_families(self) -> list[str]:
        """The families for which the mirror is on the list."""
        return [family for family, one in self.families.items() if one.listed] if self.listed else []


def _new(now: int) -> Standing:
    return Standing(False, "unmeasured", "not measured yet", now)


@dataclass(frozen=True)
class Event:
    at: int
    mirror: str
    kind: Literal["joined", "returned", "left", "retired"]
    reason: str
    family: str = ""  # which of its address families, when the mirror itself stays

    @property
    def subject(self) -> str:
        return f"{self.mirror} over {FAMILIES.get(self.family, self.family)}" if self.family else self.mirror


@dataclass(frozen=True)
class Outcome:
    standings: dict[str, Standing]
    events: list[Event] = field(default_factory=list)
    cut_off: str = ""  # why nothing was changed for what was measured
    refused: str = ""  # why nothing was changed at all
    unheard: "Unheard" = field(default_factory=dict)


def span(seconds: int) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s"
    return f"{seconds} seconds"


def clock(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True)
class Inputs:
    """All that a run decides by, but for where the mirrors stood before."""

    registry: Registry
    monitors: Sequence[Monitor]  # those that could be read
    holds: Mapping[str, str]  # by name the reason
    settings: Settings
    now: int
    away: Collection[str] = ()  # names of the fleet's monitors that could not be read


Why = tuple[Code, str, str]  # code, reason, what happens next
Unheard = dict[str, dict[str, str]]  # by monitor and address family, why it has no vote there


@dataclass(frozen=True)
class Ballot:
    """What one monitor says of a mirror in one address family: why it should not be listed, or None."""

    why: Why | None
    health: Health | None


def step(inputs: Inputs, former: Mapping[str, Standing], *, force: bool = False) -> Outcome:
    """The standing of every mirror that is or was known. `force` overrides what is held to be a mistake."""
    latest = inputs.now + inputs.settings.clock_tolerance_seconds
    former = {name: one.of_now(inputs.now, latest) for name, one in former.items()}
    unheard = {one.name: _unheard(one, inputs, former, force=force) for one in inputs.monitors}
    if force and all(why.keys() == FAMILIES.keys() for why in unheard.values()):
        unheard = {}  # then those that are no news decide
    cut_off = _cut_off(inputs, unheard)

    def stand() -> dict[str, Standing]:
        voters = _voters(inputs, unheard, cut_off)
        return {name: _stand(name, inputs, former.get(name), voters) for name in inputs.registry.mirrors}

    standings = stand()
    if not force and (withdrawn := _withdrawn_at_once(inputs, former, standings)):
        cut_off |= withdrawn
        standings = stand()
    for name in former.keys() - standings.keys():
        standings[name] = _off(former[name], ("gone", "no longer in the registry", ""), inputs, None)
    refused = "" if force else _refusal(former, standings, inputs.settings)
    told = "; ".join(dict.fromkeys(cut_off.values()))
    if refused:
        return Outcome(dict(former), [], told, refused, unheard)
    return Outcome(standings, list(_events(former, standings, inputs.now)), told, "", unheard)


def follow(inputs: Inputs, listed: Mapping[str, Collection[str]]) -> dict[str, Standing]:
    """Where the mirrors of the list, each by its address families, would stand if one round decided.

    For who follows faster than the list does, and may: what it does in error costs a client nothing.
    """
    at = inputs.now
    here, off = Standing(True, "listed", "", at, joined=at), Standing(False, "waiting", "not on the list", at)
    former = {
        name: replace(here, families={one: here if one in families else off for one in FAMILIES})
        for name, families in listed.items()
        if name in inputs.registry.mirrors
    }
    inputs = replace(inputs, settings=replace(inputs.settings, fall=1))
    voters = _voters(
        inputs, {one.name: _unheard(one, inputs, former, force=False) for one in inputs.monitors}, ()
    )
    return {name: _stand(name, inputs, one, voters) for name, one in former.items()}


def _voters(inputs: Inputs, unheard: Unheard, cut_off: Collection[str]) -> dict[str, list[Monitor]]:
    """By address family, whose word is taken."""
    return {
        family: [
            one
            for one in inputs.monitors
            if family not in unheard.get(one.name, {}) and family not in cut_off
        ]
        for family in FAMILIES
    }


def _cut_off(inputs: Inputs, unheard: Unheard) -> dict[str, str]:
    """By address family, why no monitor's word is taken, where it is for a while only."""
    if not inputs.monitors:
        return dict.fromkeys(FAMILIES, "no monitor has reported yet")
    found = {}
    for family in FAMILIES:
        able = [one for one in inputs.monitors if family in one.families]
        why = [(one.name, unheard.get(one.name, {}).get(family)) for one in able]
        if why and all(problem for _, problem in why):
            several = len(inputs.monitors) > 1
            found[family] = "; ".join(
                f"{name}: {problem}" if several else str(problem) for name, problem in why
            )
    return found


def _unheard(
    monitor: Monitor, inputs: Inputs, former: Mapping[str, Standing], *, force: bool
) -> dict[str, str]:
    """By address family, why what a monitor says is not believed."""
    blind = {
        family: f"the monitor has no {label} itself"
        for family, label in FAMILIES.items()
        if family not in monitor.families
    }
    if problem := silence(monitor, inputs):
        return dict.fromkeys(FAMILIES, problem)
    if force:
        return blind
    known = monitor.health.keys() & inputs.registry.mirrors
    seen = {name: monitor.health[name] for name, one in former.items() if one.listed and name in known}
    dead = {name for name, one in seen.items() if one.deaf}
    if problem := _too_many(len(dead), len(seen), inputs.settings):
        return dict.fromkeys(FAMILIES, problem)
    found = blind
    for family, label in FAMILIES.items():
        # A mirror that fails in every family says nothing of the monitor's way in one of them.
        there = [
            one.over(family)
            for name, one in seen.items()
            if name not in dead and former[name].over(family).listed
        ]
        failing = sum(one.bad > 0 for one in there)
        if problem := _too_many(failing, len(there), inputs.settings, f" over {label}"):
            found.setdefault(family, problem)
    return found


def silence(monitor: Monitor, inputs: Inputs) -> str:
    """Why what a monitor says is no news, in any address family."""
    settings = inputs.settings
    if inputs.now - monitor.at > settings.silence_seconds:
        return f"the monitor has been silent for {span(inputs.now - monitor.at)}"
    if monitor.at - inputs.now > settings.clock_tolerance_seconds:
        return f"the monitor's clock is {span(monitor.at - inputs.now)} ahead"
    if monitor.reference_problem:
        return f"the monitor cannot reach the reference: {printable(monitor.reference_problem)}"
    return ""


def _too_many(failing: int, of: int, settings: Settings, over: str = "") -> str:
    if of < FEWEST_FOR_CUT_OFF or failing <= settings.cut_off_share * of:
        return ""
    return f"{failing} of {of} listed mirrors fail at once{over}: the monitor is held to be cut off itself"


def _withdrawn_at_once(
    inputs: Inputs, former: Mapping[str, Standing], standings: Mapping[str, Standing]
) -> dict[str, str]:
    """By address family, why none is withdrawn in it: more than a share of the list would be, which stays otherwise."""
    found = {}
    for family, label in FAMILIES.items():
        before = [name for name, one in former.items() if one.listed and one.over(family).listed]
        leaving = [
            name
            for name in before
            if name in standings and standings[name].listed and standings[name].over(family).code == "failing"
        ]
        if len(leaving) > max(1, inputs.settings.drop_share * len(before)):
            found[family] = (
                f"{len(leaving)} of {len(before)} listed mirrors would lose {label} at once: the monitor is held to be"
                " cut off itself"
            )
    return found


def _stand(
    name: str, inputs: Inputs, former: Standing | None, voters: Mapping[str, Sequence[Monitor]]
) -> Standing:
    """A mirror by its address families: it is listed while one of them is."""
    before = former or _new(inputs.now)
    if name in inputs.registry.wrong:  # then nobody knows which it claims
        return replace(_stand_over("", name, inputs, before, ())[0], families={})
    found = {
        family: _stand_over(family, name, inputs, before.over(family), voters[family])
        for family in inputs.registry.mirrors[name]["address_families"]
    }
    families = {family: one for family, (one, _) in found.items()}
    # Where no monitor has a vote in one, nobody stays for what is not known of that one alone.
    known = [family for family in families if voters[family]] or list(families)
    listed = [family for family in known if families[family].listed]
    health = {family: by or Health(0) for family, (_, by) in found.items()}
    first = max(listed or known, key=lambda family: health[family].good)
    one = families[first]
    return replace(
        one,
        since=before.since if before.code == one.code else inputs.now,
        next=_loss(families, inputs, health) if one.listed else one.next,
        joined=(before.joined or inputs.now) if one.listed else None if one.code in HIDDEN else before.joined,
        families=families,
    )


def _loss(families: Mapping[str, Standing], inputs: Inputs, health: Mapping[str, Health]) -> str:
    """What becomes of a listed mirror when what fails goes on to fail."""
    listed = [family for family, one in families.items() if one.listed]
    failing = [family for family in listed if families[family].next]
    if failing == listed:
        left = max(inputs.settings.fall - health[family].bad for family in listed)
        return f"leaves when {left} more rounds fail"
    return "; ".join(f"loses {FAMILIES[family]}, which {families[family].next}" for family in failing)


def _stand_over(
    family: str, name: str, inputs: Inputs, before: Standing, voters: Sequence[Monitor]
) -> tuple[Standing, Health | None]:
    """One address family of a mirror, and what the monitor found whose vote decided."""
    tampered = _tampered(name, inputs, before)
    # Who is listed all the same has passed an audit since, even if no monitor is there to say so.
    doubted = {
        by: at for by, at in tampered.items() if not before.listed or at not in before.tampered.values()
    }
    if tampered != before.tampered:
        before = replace(before, tampered=tampered)
    why, health = next(_barred(name, inputs, doubted), None), None
    if voters:
        ballots = _ballots(family, name, inputs, before, voters)
        decisive = _decisive(ballots, listed=before.listed)
        health = decisive.health
        if why is None and decisive.why:
            why = _counted(decisive.why, ballots)
    elif why is None:
        if before.listed:
            return before, None
        why = _waiting(before, family, inputs)
    if why:
        return _off(before, why, inputs, health), health
    then = (
        f"leaves when {inputs.settings.fall - health.bad} more rounds fail" if health and health.bad else ""
    )
    if before.listed:
        return before if then == before.next else replace(before, next=then), health
    return replace(
        before,
        listed=True,
        code="listed",
        reason="",
        since=inputs.now,
        next=then,
        left=None,
        joined=before.joined or inputs.now,
    ), health


def _tampered(name: str, inputs: Inputs, before: Standing) -> dict[str, int]:
    """By monitor, when it last found a wrong hash: what one proved counts, whether or not it has a vote now."""
    found = dict(before.tampered)
    for one in inputs.monitors:
        health, audit = one.health.get(name), one.audits.get(name)
        for at in (health.tampered_at if health else None, audit.tampered_at if audit else None):
            if at is not None:
                found[one.name] = max(at, found.get(one.name, at))
    return found


def _cleared(name: str, by: str, at: int, inputs: Inputs) -> bool:
    """Whether an audit since then passed: one of the monitor that found it, which may be in the only network where it
    is to be seen. When that monitor is the fleet's no more, anybody's."""
    own = [one for one in inputs.monitors if one.name == by]
    if not own and by in inputs.away:
        return False
    passed = (one.audits[name].cleared_at for one in own or inputs.monitors if name in one.audits)
    return any(one is not None and one > at for one in passed)


def _ballots(
    family: str, name: str, inputs: Inputs, before: Standing, voters: Sequence[Monitor]
) -> list[Ballot]:
    """What those say who can; who has not measured it lately can not."""
    audits = [one.audits.get(name, Audit()).over(family) for one in voters]
    audited = max((one.passed_at for one in audits if one.passed_at is not None), default=None)
    found = []
    for monitor, audit in zip(voters, audits, strict=True):
        health = monitor.health.get(name)
        health = health.over(family) if health else None
        why = _failure(name, inputs, monitor, health, before) or _pending(
            inputs, health, audit, audited, before
        )
        found.append(Ballot(why, health))
    return [one for one in found if not (one.why and one.why[0] in UNKNOWN)] or found


def _decisive(ballots: Sequence[Ballot], *, listed: bool) -> Ballot:
    """The vote that decides when all are put in order, the best first: as many as it takes to be more than half say at
    least so much against where the mirror stands."""

    def order(one: Ballot) -> tuple[bool, int, int]:
        health = one.health or Health(0)
        return one.why is not None, health.bad, -health.good

    return sorted(ballots, key=order)[(len(ballots) - listed) // 2]


def _counted(why: Why, ballots: Sequence[Ballot]) -> Why:
    """With how many say so, where several were asked."""
    code, reason, then = why
    if len(ballots) == 1 or code not in MEASURED | {"audit"}:
        return why
    against = sum(one.why is not None for one in ballots)
    return code, f"{reason} ({against} of {len(ballots)} monitors)", then


def _barred(name: str, inputs: Inputs, tampered: Mapping[str, int]) -> Iterator[Why]:
    """Why a mirror is off the list whatever was measured of its health; the first reason counts."""
    if problem := inputs.registry.wrong.get(name):
        yield "invalid", f"its record is not valid: {printable(problem)}", "needs a mended record"
        return
    record, fleet = inputs.registry.mirrors[name], inputs.registry.fleet
    if record["state"] == "retired":
        yield "retired", "retired", ""
    if record["state"] == "drained":
        yield "drained", "drained by its operator", "is looked at again when it is active"
    if name in inputs.holds:
        yield "held", f"held: {printable(inputs.holds[name])}", "is looked at again when it is released"
    today = datetime.datetime.fromtimestamp(inputs.now, datetime.UTC).date().isoformat()
    agreement = record["agreement"]
    if agreement["version"] != fleet["agreement_version"] or (agreement["expires_on"] or today) < today:
        yield "agreement", "its agreement is not the fleet's current one", "needs the current agreement"
    proven = {by: at for by, at in tampered.items() if not _cleared(name, by, at, inputs)}
    if proven:
        why = f"served a file with a wrong hash at {clock(max(proven.values()))}"
        several = len(inputs.monitors) + len(inputs.away) > 1
        by = f", found by {', '.join(sorted(filter(None, proven)))}" if several and any(proven) else ""
        yield "tampered", why + by, "needs an audit that passes, then good rounds"


def _waiting(before: Standing, family: str, inputs: Inputs) -> Why:
    """Off the list while no monitor has a vote: for what was measured before, or as nobody knows better."""
    if inputs.monitors and all(family not in one.families for one in inputs.monitors):
        return "waiting", f"no monitor has {FAMILIES[family]}", "is looked at when one has"
    then = "is looked at again when the monitor is back"
    if before.code in (MEASURED | UNKNOWN) - {"tampered"}:
        return before.code, before.reason, then
    return "waiting", "the monitor is cut off: nobody returns until it is back", then


def _failure(
    name: str, inputs: Inputs, monitor: Monitor, health: Health | None, before: Standing
) -> Why | None:
    if health is None:
        return "unmeasured", "not measured yet", "is listed after its first good rounds"
    settings, then = inputs.settings, f"returns after {inputs.settings.rise} good rounds"
    started = monitor.started if before.listed else 0
    # By the monitor's last report: what it has measured since cannot be known, and one that is gone blames nobody.
    if min(inputs.now, monitor.at) - max(health.measured_at, started) > settings.silence_seconds:
        return "silent", f"not measured for {span(inputs.now - health.measured_at)}", then
    if health.bad >= settings.fall or (health.bad and not before.listed):
        return "failing", printable(health.problem), then
    # A cache has no tree that could be stale; and a round that failed tells nothing of freshness.
    fresh = inputs.registry.mirrors[name]["mode"] == "cache" or health.deaf
    limit = inputs.registry.fleet["staleness_limit"]
    problem = "" if fresh else _staleness(health, limit, settings.clock_tolerance_seconds, inputs.now)
    return ("stale", problem, then) if problem else None


def _staleness(health: Health, limit: int, tolerance: int, now: int) -> str:
    if health.last_modified is None:
        return "does not say how fresh it is (/last-modified)"
    if health.last_modified - now > tolerance:
        return f"claims to be fresh as of {span(health.last_modified - now)} from now"
    if now - health.last_modified > limit:
        return f"stale: last synced {span(now - health.last_modified)} ago"
    if (health.lag or 0) > limit:
        return f"stale: lacks what the reference has had for {span(health.lag or 0)}"
    return ""


def _pending(
    inputs: Inputs, health: Health | None, audit: Audit, audited: int | None, before: Standing
) -> Why | None:
    """Why a mirror whose rounds are good is not listed yet, or no longer. One monitor's audit, the last that passed, is
    enough to return, but for a monitor whose own audits fail."""
    settings, good = inputs.settings, health.good if health else 0
    if before.listed:
        # What no round asks for: pages that lack files, answers that are not as the standards say.
        if not settings.audit_required or audit.failures < settings.audit_fall:
            return None
        return (
            "audit",
            f"failed {audit.failures} audits: {printable(audit.problem)}",
            "returns when an audit passes",
        )
    if good < settings.rise:
        count = f"{good} of {settings.rise} good rounds"
        return "returning", f"well again, not yet for long: {count}", f"needs {settings.rise - good} more"
    if before.left is not None and inputs.now < (until := before.left + damping(before, settings)):
        return (
            "damped",
            f"left {len(before.leaves)} times lately",
            f"returns at {clock(until)} at the earliest",
        )
    owed = before.left if before.left is not None else 0 if before.joined is None else None
    passed = audit.passed_at if audit.failures >= settings.audit_fall else audited
    if settings.audit_required and owed is not None and (passed is None or passed < owed):
        found = f"; the last one: {printable(audit.problem)}" if audit.problem else ""
        return "audit", f"awaits an audit{found}", "is listed when an audit passes"
    return None


def damping(standing: Standing, settings: Settings) -> int:
    """Seconds that a mirror stays off the list after it left."""
    doubled: int = settings.damping_seconds << min(max(len(standing.leaves) - 1, 0), 30)
    return max(settings.damping_seconds, min(doubled, settings.damping_limit_seconds))


def _off(before: Standing, why: Why, inputs: Inputs, health: Health | None) -> Standing:
    """Off the list; that it left by measurement is remembered until it is back."""
    (code, reason, then), now = why, inputs.now
    left, leaves = before.left, before.leaves
    left_now = before.listed and (code in MEASURED or code == "audit")
    if left_now or (code == "tampered" and before.code != "tampered"):
        # By the monitor's clock, as audits are: one that began since then counts, however late this run is.
        left = health.measured_at if health else now
        leaves = (*(at for at in leaves if at > now - inputs.settings.flap_window_seconds), now)
    return replace(
        before,
        listed=False,
        code=code,
        reason=reason,
        next=then,
        since=before.since if before.code == code else now,
        left=left,
        leaves=leaves,
        joined=None if code in HIDDEN else before.joined,
    )


def _refusal(former: Mapping[str, Standing], standings: Mapping[str, Standing], settings: Settings) -> str:
    before = [name for name, one in former.items() if one.listed]
    leaving = [name for name in before if not standings[name].listed]
    why = "; ".join(f"{name}: {standings[name].reason}" for name in leaving[:20])
    if before and not any(one.listed for one in standings.values()):
        return f"the list would become empty, it has {len(before)} mirrors ({why})"
    dropped = sum(standings[name].code not in AT_ONCE for name in leaving)
    if dropped > max(1, settings.drop_share * len(before)):
        share = settings.drop_share
        return (
            f"{dropped} of {len(before)} mirrors would leave at once, allowed is a share of {share} ({why})"
        )
    return ""


def _events(former: Mapping[str, Standing], standings: Mapping[str, Standing], now: int) -> Iterator[Event]:
    for name, one in standings.items():
        before = former.get(name)
        if not (before and before.listed and one.listed):
            yield from _event(before, one, now, name)
            continue
        for family, there in one.families.items():
            yield from _event(before.over(family), there, now, name, family)


def _event(before: Standing | None, one: Standing, now: int, name: str, family: str = "") -> Iterator[Event]:
    if one.listed and not (before and before.listed):
        yield Event(now, name, "returned" if before and before.joined else "joined", "", family)
    elif before and before.listed and not one.listed:
        yield Event(now, name, "retired" if one.code in HIDDEN else "left", one.reason, family)
