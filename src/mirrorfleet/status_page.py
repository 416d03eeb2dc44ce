"""The status page: one HTML document that works without its script, and says nothing that is not escaped."""

import html
from typing import Any
from xml.parsers import expat

from .documents import List, rfc3339, xml_text
from .registry import page_of
from .schema import InvalidDocumentError

COLUMNS = (
    ("Mirror", ""), ("Listed", ""), ("Since", ""), ("Place", ""), ("Operator", ""), ("Kind", ""), ("Reachable by", ""),
    ("Mbit/s", "number"), ("Last synced", ""), ("Score", "number"), ("30 days", "number"),
)  # fmt: skip

STYLE = """\
:root { color-scheme: light dark; --line: #8886; --good: #0a7d33; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd38a; --bad: #ff9d94; } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; }
main { margin: 0 auto; max-width: 90rem; padding: 1rem; }
div[role=region] { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { font-weight: bold; padding: .5rem 0; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
thead th { vertical-align: bottom; }
tbody th, time { white-space: nowrap; }
td.number, th.number { text-align: right; }
th button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit; padding: 0;
  text-align: inherit; text-decoration: underline dotted; }
.good { color: var(--good); }
.bad { color: var(--bad); }
.next { display: block; font-size: .875rem; }
svg { display: block; fill: none; margin-left: auto; stroke: currentColor; }
pre { border: 1px solid var(--line); overflow-x: auto; padding: .5rem; }
"""

SCRIPT = """\
// Sorts the table of mirrors by a click on a column's head. The page says the same without it.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent;
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => value(a, at).localeCompare(value(b, at), undefined, {numeric: true}) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{name}: mirrors</title>
<link rel="stylesheet" href="style.css"/>
<link rel="alternate" type="application/atom+xml" title="Who joined, returned and left" href="feed.atom"/>
<script src="sort.js" defer="defer"></script>
</head>
<body>
<main>
<h1><bdi>{name}</bdi>: mirrors</h1>
<p>{listed} of {known} mirrors are listed: reachable, fresh and complete when last measured from outside.
The same list for programs: <a href="mirrors.json">mirrors.json</a>
(<a href="mirrors.schema.json">schema</a>), <a href="mirrors.txt">mirrors.txt</a>,
<a href="mirrors-ipv4.txt">for IPv4</a>, <a href="mirrors-ipv6.txt">for IPv6</a>;
news: <a href="feed.atom">feed</a>.</p>
<h2>Use it</h2>
<p>Whoever runs the mirror you choose can change what you install from it: choose one whose operator you trust,
and prefer hashes (<code>--require-hashes</code>, lock files).</p>
<pre><code>pip install --index-url {index} PROJECT
uv pip install --default-index {index} PROJECT</code></pre>
<p>Or as configuration: <a href="pip.conf">pip.conf</a>, <a href="uv.toml">uv.toml</a>.</p>
<h2>Mirrors</h2>
<div role="region" aria-label="Table of mirrors" tabindex="0">
<table class="sortable">
<caption>Every mirror, where it stands and why</caption>
<thead>
<tr>{heads}</tr>
</thead>
<tbody>
{rows}</tbody>
</table>
</div>
<p>Score: (hours behind + mean seconds of a probe + their standard deviation) / share of good probes, over the last
day; less is better. 30 days: share of good probes.</p>
</main>
</body>
</html>
"""


def escape(words: object) -> str:
    return html.escape(xml_text(str(words)))


def words(text: str) -> str:
    """Words of others: kept apart, so that their direction does not spread to ours."""
    return f"<bdi>{escape(text)}</bdi>"


def render(found: List, mirrors: list[dict[str, Any]], index: str) -> bytes:
    heads = "".join(f'<th scope="col"{_kind(kind)}>{title}</th>' for title, kind in COLUMNS)
    page = PAGE.format(
        name=escape(found.registry.fleet["name"]),
        listed=sum(mirror["listed"] for mirror in mirrors),
        known=len(mirrors),
        index=escape(index),
        heads=heads,
        rows="".join(
            _row(mirror, found.findings.more.get(mirror["name"], {}).get("days")) for mirror in mirrors
        ),
    ).encode()
    try:
        expat.ParserCreate().Parse(page, True)
    except expat.ExpatError as error:
        raise InvalidDocumentError(f"index.html is not well-formed: {error}") from error
    return page


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _row(mirror: dict[str, Any], days: list[float | None] | None) -> str:
    place, operator = mirror["location"], mirror["operator"]
    who = words(operator["name"])
    if operator.get("url"):
        who = f'<a href="{escape(page_of(operator["url"]))}" rel="nofollow noopener noreferrer">{who}</a>'
    state = (
        '<span class="good">yes</span>'
        if mirror["listed"]
        else f'<span class="bad">no</span>: {words(mirror["reason"])}'
    )
    if mirror["next"]:
        state += f'<span class="next">{words(mirror["next"])}</span>'
    share = mirror["availability"]
    cells = (
        (state, ""),
        (moment(mirror["since"]), ""),
        (f"{words(place['city'])}, {escape(place['country'])}", ""),
        (who, ""),
        (f"{escape(mirror['mode'])}, tier {mirror['tier']}", ""),
        (escape(", ".join(mirror["address_families"])), ""),
        (str(mirror["bandwidth"]), "number"),
        (moment(mirror["last_modified"]), ""),
        ("" if mirror["score"] is None else f"{mirror['score']:g}", "number"),
        ("" if share is None else f"{100 * share:.1f} %{sparkline(days)}", "number"),
    )
    url = escape(page_of(mirror["url"]))
    head = f'<th scope="row"><a href="{url}/simple/">{escape(mirror["name"])}</a></th>'
    return f"<tr>{head}{''.join(f'<td{_kind(kind)}>{cell}</td>' for cell, kind in cells)}</tr>\n"


def moment(at: int | None) -> str:
    if at is None or not 0 <= at < 2**37:
        return ""
    text = rfc3339(at)
    return f'<time datetime="{text}">{text[:10]} {text[11:16]}</time>'


def sparkline(days: list[float | None] | None) -> str:
    """A line of 60 by 14 pixels; days without measurement break it. The share beside it says the same in words."""
    strokes, pen = "", "M"
    for at, share in enumerate(days or []):
        if share is None:
            pen = "M"
            continue
        strokes += f"{pen}{2 * at} {13 - 12 * share:.3g}" + ("h1" if pen == "M" else "")
        pen = "L"
    return f'<svg width="60" height="14" aria-hidden="true"><path d="{strokes}"/></svg>' if strokes else ""
