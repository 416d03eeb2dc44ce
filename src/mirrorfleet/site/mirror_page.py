"""A page for each mirror: where it stands and why, who runs it, how it did for a month, what its last audit found."""

import functools
import hashlib
import re
from typing import Any

from ..fleet.documents import List, rfc3339
from ..fleet.markup import HEAD, checked, date, escape, moment, words
from ..fleet.registry import page_of
from ..fleet.standing import span
from .markup import certificate

FOLDER = "mirror"
DAY = 86400

PAGE = """\
<title>{name}: {standing}</title>
<link rel="stylesheet" href="../style.css"/>
<link rel="icon" type="image/svg+xml" href="../icon.svg"/>
</head>
<body>
<main>
<p><a href="../index.html">All mirrors of <bdi>{fleet}</bdi></a></p>
<h1>{name}: <span class="{kind}">{standing}</span></h1>
<p>{state}</p>
<dl>
{facts}</dl>
<h2>Thirty days</h2>
{plots}<h2>Last audit</h2>
{audit}<h2>History</h2>
{events}<h2>Use it</h2>
<p>Its operator can change what you install from it: <code>--require-hashes</code> and lock files tell.</p>
<pre><code>pip install --index-url {index} PROJECT
uv pip install --default-index {index} PROJECT</code></pre>
</main>
</body>
</html>
"""

MODES = {
    "bandersnatch": "copy of the index by bandersnatch",
    "rsync": "copy of another mirror by rsync",
    "cache": "cache: passes on what is asked for, and keeps it",
}
VERDICTS = {
    "passed": ("good", "passed"),
    "failed": ("bad", "failed"),
    "tampered": ("bad", "found a file with a wrong hash"),
    "inconclusive": ("quiet", "could not be brought to an end"),
}


def file_name(name: str) -> str:
    """The name of a mirror's page: its own, or a hash where that would not be one part of every URL and path."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        return f"{name}.html"
    return f"~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}.html"


def render(found: List, mirror: dict[str, Any]) -> bytes:
    name = mirror["name"]
    more = found.findings.more.get(name, {})
    listed = mirror["listed"]
    state = f"Since {moment(mirror['since'])}" + ("." if listed else f": {words(mirror['reason'])}.")
    if mirror["next"]:
        state += f" What happens next: it {words(mirror['next'])}."
    page = HEAD + PAGE.format(
        name=escape(name),
        fleet=escape(found.registry.fleet["name"]),
        kind="good" if listed else "bad",
        standing="listed" if listed else "not listed",
        state=state,
        facts="".join(
            f"<dt>{term}</dt><dd>{text}</dd>\n" for term, text in _facts(found, mirror, more) if text
        ),
        plots=_plots(found, more),
        audit=_audit(more.get("audit")),
        events=_events(found, name),
        index=f"{page_of(mirror['url'])}/simple/",
    )
    return checked(page, f"{FOLDER}/{file_name(name)}")


def place(mirror: dict[str, Any]) -> str:
    where = mirror["location"]
    text = f"{words(where['city'])}, {escape(where['country'])}"
    if where.get("latitude") is None or where.get("longitude") is None:
        text += ' <span class="quiet">(not on the map)</span>'
    return text


def operator(mirror: dict[str, Any]) -> str:
    """Its operator's name, a link where there is a page."""
    who = mirror["operator"]
    name = words(who["name"])
    if not who.get("url"):
        return name
    return f'<a href="{escape(page_of(who["url"]))}" rel="nofollow noopener noreferrer">{name}</a>'


def carries(record: dict[str, Any]) -> str:
    """What its operator and the fleet agreed that it has; nothing when the registry is of before."""
    if "projects" not in record:
        return ""
    count, passes = record["projects"], record.get("on_miss") == "pass"
    if record["mode"] == "cache":
        return "what was asked for; all else is fetched from upstream"
    text = "every project" if count is None else "one project" if count == 1 else f"{count} projects"
    if record.get("partial"):
        text += ", without some releases, platforms or large projects"
    return text + ("; all else is passed on to upstream" if passes else "")


def agreement(given: dict[str, Any]) -> str:
    """By which terms it is lent, since when, until when."""
    text = words(str(given["version"]))
    if given.get("accepted_on"):
        text += f", accepted on {words(str(given['accepted_on']))}"
    if given.get("expires_on"):
        text += f", until {words(str(given['expires_on']))}"
    return text


def families(names: list[str]) -> str:
    return ", ".join({"ipv4": "IPv4", "ipv6": "IPv6"}[name] for name in names)


def _facts(found: List, mirror: dict[str, Any], more: dict[str, Any]) -> list[tuple[str, str]]:
    """Terms and what is known of them; those of which nothing is known are left out."""
    where = mirror["location"]
    behind = more.get("lag")
    share, problems = mirror["availability"], more.get("families", {})
    measured = moment(more.get("measured_at"))
    indexes = [f"{page_of(url)}/simple/" for url in mirror["urls"]]
    failing = "; ".join(f"{families([key])}: {words(text)}" for key, text in problems.items() if text)
    return [
        ("Index", "<br/>".join(f'<a href="{url}">{url}</a>' for url in indexes)),
        ("Operator", operator(mirror)),
        ("Place", f"{place(mirror)} ({escape(where['continent'])})"),
        ("Kind", f"{MODES[mirror['mode']]}; tier {mirror['tier']}"),
        ("Carries", carries(found.registry.mirrors[mirror["name"]])),
        ("Agreement", agreement(found.registry.mirrors[mirror["name"]]["agreement"])),
        ("Bandwidth", f"{mirror['bandwidth']} Mbit/s"),
        ("Reachable by", families(mirror["address_families"])),
        ("Last synced", moment(mirror["last_modified"])),
        ("Serial", "" if mirror["serial"] is None else str(mirror["serial"])),
        ("Behind the index", "" if behind is None else f"by {span(behind)}" if behind else "not at all"),
        ("Certificate until", certificate(more.get("certificate_expires"), found.now)),
        ("Last probe", f"{measured}: {failing or 'all is well'}" if measured and problems else measured),
        ("Score", "" if mirror["score"] is None else f"{mirror['score']:g} (less is better)"),
        ("30 days", "" if share is None else f"{100 * share:.2f} % of the probes were good"),
    ]  # fmt: skip


def _audit(audit: dict[str, Any] | None) -> str:
    if not audit or "verdict" not in audit:
        return "<p>Not audited yet.</p>\n"
    kind, verdict = VERDICTS[audit["verdict"]]
    text = f'<p>{moment(audit["started"])}: <span class="{kind}">{verdict}</span>'
    if audit["problem"]:
        text += f": {words(audit['problem'])}"
    low, high = audit.get("complete", (0, 1))
    text += (
        f".</p>\n<p>Files read whole and hashed: {audit.get('hashed', 0)}; asked for: {audit.get('sampled', 0)}."
        f" Between {100 * low:.1f} % and {100 * high:.1f} % of the trusted index's files are there"
        " (95 % confidence).</p>\n"
    )
    if audit["passed_at"] is not None and audit["passed_at"] != audit["started"]:
        text += f"<p>The last that passed: {moment(audit['passed_at'])}.</p>\n"
    if not (failed := audit.get("failed")):
        return text
    rows = "".join(
        f'<tr><th scope="row">{escape(one["rule"])}</th><td>{escape(one["source"])}</td><td>{one["severity"]}</td>'
        f"<td>{families([one['family']]) if 'family' in one else ''}</td><td>{escape(one['summary'])}</td>"
        f"<td>{words(one['detail'])}</td></tr>\n"
        for one in failed
    )
    heads = ("Rule", "Source", "Severity", "Over", "What should hold", "What was found")
    head = "".join(f'<th scope="col">{title}</th>' for title in heads)
    return (
        f'{text}<div role="region" aria-label="Rules that did not hold" tabindex="0">\n<table>\n'
        f"<caption>Rules that did not hold, errors first</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )


def _events(found: List, name: str) -> str:
    events = found.history.get(name, ())
    rows = "".join(
        f"<li>{moment(event.at)} {event.kind}{f': {words(event.reason)}' if event.reason else ''}</li>\n"
        for event in reversed(events)
    )
    return f'<ul class="events">\n{rows}</ul>\n' if rows else "<p>It neither joined nor left lately.</p>\n"


# --- plots: bars of 30 days, 20 units each, on a ground of 600 by 60 ---

GROUND, STEP = 66, 20


def _plots(found: List, more: dict[str, Any]) -> str:
    days: list[float | None] = more.get("days") or []
    history = more.get("history", {})
    last = (found.findings.monitor.at if found.findings.monitor else found.now) // DAY
    return _availability(days, history.get("independent", []), last) + _freshness(
        history.get("behind", []), found.registry.fleet["staleness_limit"], last
    )


def _availability(days: list[float | None], other: list[float | None], last: int) -> str:
    known = [(share, at) for at, share in enumerate(days) if share is not None]
    if not known:
        return "<p>Nothing was measured yet.</p>\n"
    lowest, at = min(known)
    mean = sum(share for share, _ in known) / len(known)
    caption = f"Availability, share of good probes by day: {100 * mean:.2f} % in the mean"
    if lowest < 1:
        caption += f", {100 * lowest:.1f} % on {date((last - len(days) + 1 + at) * DAY)}"
    line = ""
    if independent := [share for share in other if share is not None]:
        line = f'<path class="other" d="{_line(other)}"/>'
        caption += (
            "; the line: an independent probe of the index page,"
            f" {100 * sum(independent) / len(independent):.2f} % in the mean"
        )
    names = ("Availability by day", "100 %")
    return _figure(_bars(days) + line, f"{caption}.", names, range(last - len(days) + 1, last + 1))


def _freshness(behind: list[int | None], limit: int, last: int) -> str:
    known = [(seconds, at) for at, seconds in enumerate(behind) if seconds is not None]
    if not known:
        return '<p class="quiet">How far it was behind the index is not remembered yet.</p>\n'
    most, at = max(known)
    top = max(most, limit)
    drawn = _bars([None if seconds is None else seconds / top for seconds in behind])
    drawn += f'<path class="limit" d="M0 {GROUND - 60 * limit / top:.4g}h600"/>'
    caption = f"Freshness, the longest that it was behind the index by day: at most {span(most)}"
    if most:
        caption += f", on {date((last - len(behind) + 1 + at) * DAY)}"
    caption += f"; beyond {span(limit)} (dashed) it is stale."
    names = ("Time behind the index by day", span(top))
    return _figure(drawn, caption, names, range(last - len(behind) + 1, last + 1))


def _bars(shares: list[float | None]) -> str:
    """What is known leaves a stroke, however small it is; what is not leaves a gap."""
    path = "".join(_bar(at, round(600 * share)) for at, share in enumerate(shares) if share is not None)
    return f'<path class="bar" d="{path}"/>'


@functools.lru_cache(600 * 30)
def _bar(at: int, tenths: int) -> str:
    return f"M{STEP * at + 2} {GROUND}v-{max(tenths / 10, 1):g}h{STEP - 4}V{GROUND}z"


def _line(shares: list[float | None]) -> str:
    strokes, pen = "", "M"
    for at, share in enumerate(shares):
        if share is None:
            pen = "M"
            continue
        strokes += f"{pen}{STEP * at + 10} {GROUND - 60 * share:.4g}" + ("h1" if pen == "M" else "")
        pen = "L"
    return strokes


def _figure(drawn: str, caption: str, names: tuple[str, str], days: range) -> str:
    (title, top), first, last = names, rfc3339(days[0] * DAY)[:10], rfc3339(days[-1] * DAY)[:10]
    return (
        f'<figure>\n<svg class="plot" viewBox="0 0 660 82" role="img" aria-label="{title}, {first} to {last}">'
        f'<path class="axis" d="M0 6h600M0 {GROUND}h600"/>{drawn}<text x="604" y="10">{top}</text>'
        f'<text x="0" y="79">{first}</text><text x="600" y="79" text-anchor="end">{last}</text></svg>\n'
        f"<figcaption>{caption}</figcaption>\n</figure>\n"
    )
