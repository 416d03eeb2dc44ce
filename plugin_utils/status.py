"""The fleet in one table: what hosts say of themselves, redirectors of the list and monitors of the mirrors.

What hosts say may be anything, for they are lent: what is not of its type is taken as not told.
"""

from __future__ import annotations

import datetime
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugin_utils.told import counted, printable, some
from plugin_utils.values import BadValueError

KINDS = ("origins", "mirrors", "redirectors", "monitors")
STALE_NEWS = 900  # seconds; as old as this, the list takes a monitor for silent
CERTIFICATE = 14 * 86400  # as the status page has it
FREE = 0.05  # as the alert has it
# Below this, a person is needed; from it on it is good to know.
NOTE, NOTHING = 10, 99
# How urgent it is that a mirror is off the list; what is not here settles by itself or was meant.
CODES = {"invalid": 1, "tampered": 1, "failing": 2, "stale": 2, "silent": 2, "held": 3, "agreement": 3}
FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
COLUMNS = (
    "name", "stands", "mode", "tier", "synced", "lag", "certificate", "free", "mirrorfleet", "bandersnatch", "nginx",
)  # fmt: skip

Row = dict[str, Any]
Why = tuple[int, str]


def fleet_status(
    answers: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
    registry: Mapping[str, Any],
    *,
    pins: Mapping[str, Any],
    now: int,
    hosts: Sequence[str],
    problems: Sequence[Mapping[str, Any]] | None = None,
    former: str = "",
    only: str = "",
) -> dict[str, Any]:
    """The document, and the lines that a person reads; who needs a person comes first."""
    if only not in ("", "problems"):
        raise BadValueError(f"status_only is {only!r}", "problems, or nothing at all")
    asked = {name: answer_of(result) for name, result in answers.items()}
    news = News(asked, groups, now)
    earlier = _former(former)
    records = {str(one["name"]): one for one in registry["mirrors"]}
    limit = int(registry["fleet"]["staleness_limit"])
    members = {group: set(groups.get(group, [])) for group in (*KINDS, "waiting")}
    problems, rows = problems or [], []
    for name in dict.fromkeys(hosts):
        kinds = [kind[:-1] for kind in KINDS if name in members[kind]]
        row = _row(name, kinds, asked[name], records.get(name, {}), news)
        row["ssh"]["since"] = None if row["ssh"]["answers"] else _since(earlier.get(name), now)
        told = [_problem(one) for one in problems if one["host"] == name]
        whys = sorted(
            [*_whys(row, news, pins, limit, name in members["waiting"]), *((3, one) for one in told)]
        )
        rows.append(row | {"urgency": whys[0][0] if whys else NOTHING, "why": [why for _, why in whys]})
    rows += _wrong_records(problems, hosts)
    rows.sort(key=lambda row: (row["urgency"], row["kinds"] != ["mirror"], row["name"]))
    for row in rows:
        row["needs_a_person"] = row.pop("urgency") < NOTE
    mirrors = [row for row in rows if "mirror" in row["kinds"]]
    document = {
        "schema": 1,
        "fleet": registry["fleet"]["name"],
        "at": now,
        "redirector": news.redirector,
        "monitor": news.monitor,
        "mirrors": len(mirrors),
        "listed": sum(row["listed"] is True for row in mirrors),
        "need_a_person": sum(row["needs_a_person"] for row in rows),
        "hosts": rows,
    }
    return {"document": document, "lines": _lines(document, only)}


@dataclass(frozen=True)
class Answer:
    """What a host answered: its status, or why there is none."""

    status: Mapping[str, Any]
    reached: bool = True
    problem: str = ""


def answer_of(result: Any) -> Answer:
    result = mapping(result)
    if status := mapping(result.get("status")):
        return Answer(status)
    # A look that took too long has but a message.
    problem = printable(result.get("problem") or result.get("msg") or "no answer")
    return Answer({}, result.get("reached") is not False, problem)


class News:
    """The list and the health that count: the first of each that is not old, else the newest."""

    def __init__(self, asked: Mapping[str, Answer], groups: Mapping[str, Sequence[str]], now: int) -> None:
        self.now = now
        self.lists = self._all(asked, groups.get("redirectors", []), "list")
        self.redirector = self._first(self.lists)
        self.monitor = self._first(health := self._all(asked, groups.get("monitors", []), "health"))
        self.standings = mapping(self.lists.get(self.redirector or "", {}).get("mirrors"))
        self.health = mapping(health.get(self.monitor or "", {}).get("mirrors"))
        self.holds: dict[str, Row] = {}
        for name in reversed(groups.get("redirectors", [])):
            holds = mapping(asked[name].status.get("holds")) if name in asked else {}
            self.holds |= {mirror: _held(one) for mirror, one in holds.items()}

    def _all(
        self, asked: Mapping[str, Answer], names: Sequence[str], key: str
    ) -> dict[str, Mapping[str, Any]]:
        found = {name: mapping(asked[name].status.get(key)) for name in names if name in asked}
        return {name: one for name, one in found.items() if _whole(one.get("at")) is not None}

    def _first(self, found: Mapping[str, Mapping[str, Any]]) -> str | None:
        fresh = (name for name, one in found.items() if self.now - one["at"] <= STALE_NEWS)
        return next(fresh, None) or max(found, key=lambda name: found[name]["at"], default=None)

    def differs(self, name: str) -> str:
        """How a redirector's list differs from the one that counts."""
        if name not in self.lists or name == self.redirector:
            return ""
        here, there = _listed(mapping(self.lists[name].get("mirrors"))), _listed(self.standings)
        told = [f"lists {some(here - there)}"] if here - there else []
        told += [f"lacks {some(there - here)}"] if there - here else []
        return f"its list is not {self.redirector}'s: it {' and '.join(told)}" if told else ""


def _listed(standings: Mapping[str, Any]) -> set[str]:
    return {name for name, one in standings.items() if mapping(one).get("listed") is True}


def _held(hold: Any) -> Row:
    hold = mapping(hold)
    return {
        "reason": printable(hold.get("reason") or ""),
        "since": _whole(hold.get("since")),
        "by": printable(hold.get("by") or ""),
    }


def _update(told: Any) -> Row:
    """What an update that is not at its end noted."""
    told = mapping(told)
    return {
        "step": printable(told.get("step") or "unknown", 20),
        "since": _whole(told.get("since")),
        "by": printable(told.get("by") or "", 80),
        **{key: versions_of(told.get(key)) for key in ("wanted", "gated")},
    }


def versions_of(told: Any) -> dict[str, str]:
    """By program its version, as far as told."""
    return {
        part: printable(version, 60)
        for part in ("mirrorfleet", "bandersnatch", "nginx")
        if isinstance(version := mapping(told).get(part), str) and version
    }


def _withdrawn(told: Any) -> Row:
    """An address family for which a listed mirror is not listed."""
    told = mapping(told)
    return {key: printable(told.get(key) or "") for key in ("family", "code", "reason", "next")} | {
        "since": _whole(told.get("since"))
    }


def _row(name: str, kinds: list[str], answer: Answer, record: Mapping[str, Any], news: News) -> Row:
    status = answer.status
    is_mirror = "mirror" in kinds
    tree, disk = mapping(status.get("tree")), mapping(status.get("disk"))
    standing = mapping(news.standings.get(name)) if is_mirror else {}
    seen = mapping(news.health.get(name)) if is_mirror else {}
    versions = mapping(status.get("versions"))
    by_news = _whole(seen.get("certificate_expires"))
    own = mapping(status.get("list"))
    return {
        "name": name,
        "kinds": kinds,
        "listed": bool(standing["listed"]) if "listed" in standing else None,
        **{key: printable(standing.get(key) or "") for key in ("code", "reason", "next")},
        "since": _whole(standing.get("since")),
        "withdrawn": [_withdrawn(one) for one in _list(standing.get("withdrawn"))],
        "state": record.get("state"),
        # What runs, not what is to run; of one that does not answer, what is to.
        "mode": _word(tree.get("mode")) or record.get("mode"),
        "tier": record.get("tier"),
        "versions": {key: _word(versions.get(key)) for key in ("mirrorfleet", "bandersnatch", "nginx")},
        "platform": _word(status.get("platform")),
        "nginx": _word(status.get("nginx")),
        "provisioned": status.get("provisioned") is True if status else None,
        "last_sync": _whole(tree.get("last_sync")) or _whole(seen.get("last_modified")),
        "set_aside": _whole(tree.get("set_aside")) or 0,
        "left_out": _whole(tree.get("left_out")) or 0,
        "compared_by_page": _whole(tree.get("compared_by_page")) or 0,
        "refused": _word(tree.get("refused") if tree else seen.get("refused"), 300),
        "lag": _whole(seen.get("lag")),
        # As clients are given it, where somebody looked.
        "certificate_expires": by_news if by_news is not None else _whole(status.get("certificate_expires")),
        "disk": {key: _whole(disk.get(key)) for key in ("free", "total")} if disk else None,
        "failed_units": [printable(one, 80) for one in _list(status.get("failed_units"))],
        "held": news.holds.get(name) if is_mirror else None,
        "update": _update(status["update"]) if "update" in status else None,
        "list": {key: own.get(key) for key in ("at", "refused", "kept")} if own else None,
        "health": {
            "at": _whole(mapping(status["health"]).get("at")),
            "problem": printable(mapping(status["health"]).get("problem") or ""),
        }
        if "health" in status
        else None,
        "seen": {
            "by": news.monitor,
            **{key: _whole(seen.get(key)) for key in ("measured_at", "good", "bad", "since", "last_good")},
            "problem": printable(seen.get("problem") or ""),
        }
        if seen
        else None,
        "ssh": {"answers": answer.reached, "problem": answer.problem},
    }


def _whys(row: Row, news: News, pins: Mapping[str, Any], limit: int, waits: bool) -> Iterator[Why]:
    """All that is to be known of a host beside its cells, and how urgent it is."""
    now, name = news.now, row["name"]
    if not row["ssh"]["answers"]:
        since = row["ssh"]["since"]
        yield 1, f"no answer by SSH since {clock(since)}: {row['ssh']['problem']}{_seen(row, now)}"
    elif problem := row["ssh"]["problem"]:
        then = f"ansible {name} -b -m ansible.builtin.ping tries it"
        yield 1, f"it answers by SSH, but cannot be looked at: {problem}; {then}"
    elif not row["provisioned"]:
        yield 4, f"was never provisioned: ansible-playbook playbooks/provision.yml --limit {name}"
    if "mirror" in row["kinds"]:
        yield from _of_mirror(row, news, waits)
    yield from _of_host(row, now)
    if "redirector" in row["kinds"]:
        yield from _of_redirector(row, news)
    if "monitor" in row["kinds"] and (health := row["health"]) is not None:
        if health["at"] is None or now - health["at"] > STALE_NEWS:
            yield (
                1,
                f"this monitor tells nothing new{_for(health['at'], now)}: journalctl -u mirrorfleet-probe there",
            )
        if health["problem"]:
            yield 1, f"this monitor cannot ask the trusted index: {health['problem']}"
    if "mirror" not in row["kinds"] and row["last_sync"] is not None and now - row["last_sync"] > limit:
        yield 2, f"last synced {age(now - row['last_sync'])} ago: journalctl -u mirror-sync there"
    yield from _of_pins(row, pins)


def _of_mirror(row: Row, news: News, waits: bool) -> Iterator[Why]:
    code = row["code"]
    if waits:
        yield 3, "waits for the mirror that is to feed it"
    if held := row["held"]:
        by = f" by {held['by']}" if held["by"] else ""
        since = f" since {clock(held['since'])}" if held["since"] is not None else ""
        yield 3, f"held{by}{since}: {held['reason']}"
    elif row["listed"] is None and news.redirector:
        yield 3, "the list does not know it: ansible-playbook playbooks/publish.yml"
    if row["listed"] is False and not (held and code == "held"):
        since = f" since {clock(row['since'])}" if row["since"] is not None else ""
        then = f"; {row['next']}" if row["next"] else ""
        failed_audit = code == "audit" and row["reason"] != "awaits an audit"
        yield 2 if failed_audit else CODES.get(code, NOTE), f"not listed{since}: {row['reason']}{then}"
    for one in row["withdrawn"]:
        since = f" since {clock(one['since'])}" if one["since"] is not None else ""
        then = f"; {one['next']}" if one["next"] else ""
        told = f"not listed over {FAMILIES.get(one['family'], one['family'])}{since}: {one['reason']}{then}"
        yield CODES.get(one["code"], NOTE), told
    if row["listed"] and row["next"]:
        # Of one that does not answer it is told beside that.
        problem = f"{row['seen']['problem']}; " if row["seen"] and row["ssh"]["answers"] else ""
        yield 4, f"{problem}{row['next']}"


def _of_host(row: Row, now: int) -> Iterator[Why]:
    if update := row["update"]:
        by = f" by {update['by']}" if update["by"] else ""
        since = f" since {clock(update['since'])}" if update["since"] is not None else ""
        wanted = ", ".join(update["wanted"].values()) or "nobody knows what"
        then = f"ansible-playbook playbooks/update.yml --limit {row['name']} goes on, unless one is at work"
        yield 3, f"in the middle of an update{by}{since}, at its step {update['step']}, to {wanted}; {then}"
    if (ends := row["certificate_expires"]) is not None and ends - now < CERTIFICATE:
        told = f"ended {age(now - ends)} ago" if ends <= now else f"ends in {age(ends - now)}"
        yield 1 if ends <= now else 3, f"its certificate {told}: docs/certificates.md"
    disk = row["disk"] or {}
    if disk.get("total") and disk["free"] is not None and disk["free"] < FREE * disk["total"]:
        yield 3, f"its disk is nearly full: {size(disk['free'])} of {size(disk['total'])} are free"
    if row["failed_units"]:
        yield 3, f"failed on it: {some(row['failed_units'])}; systemctl status and journalctl there say why"
    if row["provisioned"] and row["nginx"] == "stopped":
        yield 1, "nginx does not run: journalctl -u nginx there"
    elif (row["nginx"] or "running") not in ("running", "stopped"):
        yield NOTE, f"nginx {row['versions']['nginx']} {row['nginx']}: systemctl restart nginx there"
    if row["refused"]:
        yield 1, f"its sync is refused: {row['refused']}"
    if row["set_aside"]:
        yield NOTE + 1, f"{row['set_aside']} projects are set aside: docs/sync.md"
    if row["left_out"]:
        yield NOTE + 1, f"{row['left_out']} files that upstream lists are left out: docs/sync.md"
    if row["compared_by_page"]:
        yield (
            NOTE + 1,
            f"each run compares {row['compared_by_page']} pages: serials of upstream tell no changes",
        )


def _of_redirector(row: Row, news: News) -> Iterator[Why]:
    if (own := row["list"]) is None:
        return
    at = _whole(own["at"])
    if at is None or news.now - at > STALE_NEWS:
        yield 1, f"its list was not made anew{_for(at, news.now)}: journalctl -u mirrorfleet-list there"
    if own["refused"] is True:
        yield 1, "its list was refused, for too many mirrors would leave at once: docs/publish.md"
    if own["kept"] is True:
        yield 2, "its list is kept as it is, for the monitor is held to be cut off: docs/monitoring.md"
    if differs := news.differs(row["name"]):
        yield 3, differs


def _of_pins(row: Row, pins: Mapping[str, Any]) -> Iterator[Why]:
    """Versions that run and are not pinned."""
    platform = row["platform"] or ""
    wanted = {
        "mirrorfleet": pins.get("mirrorfleet"),
        "bandersnatch": mapping(pins.get("bandersnatch")).get(platform)
        if row["mode"] == "bandersnatch"
        else None,
        "nginx": mapping(pins.get("nginx")).get(platform),
    }
    told = [
        f"{key} {row['versions'][key]}, pinned is {pin}"
        for key, pin in wanted.items()
        if pin and row["versions"][key] and not fnmatch.fnmatchcase(row["versions"][key], str(pin))
    ]
    if told:
        yield NOTE, f"runs {'; '.join(told)}: ansible-playbook playbooks/update.yml"


def _seen(row: Row, now: int) -> str:
    """What the monitor last knew of one that does not answer."""
    if (seen := row["seen"]) is None or seen["measured_at"] is None:
        return ""
    ago = age(now - seen["measured_at"])
    if seen["bad"]:
        since = f" since {clock(seen['since'])}" if seen["since"] is not None else ""
        return f"; {seen['by']} sees it fail{since}, last {ago} ago: {seen['problem']}"
    return f"; {seen['by']} saw it serve well {ago} ago"


def _wrong_records(problems: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> Iterator[Row]:
    """Records that are wrong are no hosts, and rows all the same."""
    by_name: dict[str, list[str]] = {}
    for one in problems:
        if one["host"] not in hosts:
            by_name.setdefault(str(one["host"]), []).append(_problem(one))
    for name, told in by_name.items():
        empty: Row = dict.fromkeys(_row("", [], Answer({}), {}, News({}, {}, 0)))
        yield empty | {"name": name, "kinds": ["record"], "urgency": 0, "why": told}


def _problem(problem: Mapping[str, Any]) -> str:
    at = f"{problem.get('file', '')}:{problem['line']}" if problem.get("line") else problem.get("file", "")
    return printable(
        f"its record is wrong: {at}: {problem['key']} {problem['problem']}. Next: {problem['next_step']}"
    )


def _former(text: str) -> Mapping[str, Any]:
    """What an earlier run wrote, by host; nothing where it cannot be read."""
    try:
        return {row["name"]: row for row in json.loads(text)["hosts"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _since(earlier: Any, now: int) -> int:
    """Since when a host does not answer: as an earlier run found it, else as of now."""
    known = _whole(mapping(mapping(earlier).get("ssh")).get("since"))
    return now if known is None else known


# --- the table ---


def _lines(document: Mapping[str, Any], only: str) -> list[str]:
    rows = document["hosts"]
    chosen = [row for row in rows if row["needs_a_person"] or only != "problems"]
    need = document["need_a_person"]
    who = "nobody needs" if not need else "one needs" if need == 1 else f"{need} need"
    lines = [
        f"{printable(document['fleet'])} at {clock(document['at'])}: {document['listed']} of {document['mirrors']}"
        f" mirrors listed, {who} a person."
    ]
    if document["redirector"] is None:
        lines.append("No redirector tells its list, so who is listed is not known.")
    if document["monitor"] is None:
        lines.append("No monitor tells what it sees.")
    if len(chosen) < len(rows):
        lines.append(f"{len(rows) - len(chosen)} that need nobody are not shown (status_only=problems).")
    if not chosen:
        return lines
    cells = [_cells(row, document["at"]) for row in chosen]
    shown = [at for at, _ in enumerate(COLUMNS) if at < 2 or any(one[at] != "-" for one in cells)]
    widths = {at: max(len(one[at]) for one in [COLUMNS, *cells]) for at in shown}
    lines += ["", _line(COLUMNS, widths)]
    for row, one in zip(chosen, cells, strict=True):
        lines += [_line(one, widths), *(f"    {why}" for why in row["why"])]
    return lines


def _line(cells: Sequence[str], widths: Mapping[int, int]) -> str:
    return "  ".join(cells[at].ljust(width) for at, width in widths.items()).rstrip()


def _cells(row: Row, now: int) -> tuple[str, ...]:
    versions, disk = row["versions"] or {}, row["disk"] or {}
    stands = "listed" if row["listed"] else row["code"] or ("not known" if row["kinds"] == ["mirror"] else "")
    kinds = [kind for kind in row["kinds"] if kind != "mirror"]
    ends = row["certificate_expires"]
    return (
        printable(row["name"], 60),
        ", ".join(filter(None, [stands, *kinds])),
        row["mode"] or "-",
        "-" if row["tier"] is None else str(row["tier"]),
        "-" if row["last_sync"] is None else age(now - row["last_sync"]),
        "-" if row["lag"] is None else age(row["lag"]),
        "-" if ends is None else "ended" if ends <= now else age(ends - now),
        "-" if disk.get("free") is None else size(disk["free"]),
        *(versions.get(key) or "-" for key in ("mirrorfleet", "bandersnatch", "nginx")),
    )


def _for(since: int | None, now: int) -> str:
    return "" if since is None else f" for {age(now - since)}"


def age(seconds: float) -> str:
    """About how long, in a few letters."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} s"


def clock(at: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "a moment that no clock knows"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# --- what hosts say, as far as it is of its type ---


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else None


def _word(value: Any, length: int = 60) -> str | None:
    return printable(value, length) or None if isinstance(value, str) else None


# --- the list before and after ---


def list_changes(before: Any, after: Any) -> list[str]:
    """Who joined the list, who left it and why, and who is not on it."""
    old, new = _known(before), _known(after)
    if new is None:
        return ["What the list has now is not known: no redirector told it."]
    listed = _listed(new)
    if old is None:
        lines = [f"The list has {counted(len(listed), 'mirror')} now; what it had before is not known."]
        joined, left = set(), set()
    else:
        joined, left = listed - _listed(old), _listed(old) - listed
        had = counted(len(_listed(old)), "mirror")
        same = f"The list has {had}, as before."
        lines = [f"The list had {had} and has {len(listed)} now." if joined or left else same]
    if joined:
        lines.append(f"  joined: {some(sorted(joined))}")
    lines += _reasons("left", left, new)
    lines += _reasons("not listed", new.keys() - listed - left, new)
    for family, label in FAMILIES.items():
        told = {
            name: [_withdrawn(one) for one in _list(mapping(new[name]).get("withdrawn"))] for name in listed
        }
        over = {name: one for name, found in told.items() for one in found if one["family"] == family}
        lines += _reasons(f"listed, but not over {label}", over, over)
    return lines


def _known(found: Any) -> dict[str, Any] | None:
    mirrors = mapping(found).get("mirrors")
    return dict(mirrors) if isinstance(mirrors, Mapping) else None


def _reasons(what: str, names: Iterable[str], standings: Mapping[str, Any], most: int = 10) -> Iterator[str]:
    names = sorted(names)
    for name in names[:most]:
        one = mapping(standings.get(name)) or {"reason": "retired, or its record is gone"}
        then = f"; {one['next']}" if one.get("next") else ""
        yield printable(f"{what}: {name}: {one.get('reason') or 'no reason given'}{then}").join(("  ", ""))
    if len(names) > most:
        yield f"  {what}: {len(names) - most} more (mirrors.json has them)"
