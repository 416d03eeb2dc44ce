"""The status page: one HTML document that works without its script, and says nothing that is not escaped."""

from typing import Any

from ..fleet.documents import List
from ..fleet.markup import HEAD, checked, escape, moment, words
from .markup import certificate
from .mirror_page import file_name, operator, place
from .world_map import world_map

COLUMNS = (
    ("Mirror", ""), ("Listed", ""), ("30 days", "number"), ("Score", "number"), ("Last synced", ""), ("Place", ""),
    ("Operator", ""), ("Kind", ""), ("IP", ""), ("Mbit/s", "number"), ("Certificate", ""),
)  # fmt: skip

PAGE = """\
<title>{name}: mirrors</title>
<link rel="stylesheet" href="style.css"/>
<link rel="icon" type="image/svg+xml" href="icon.svg"/>
<link rel="alternate" type="application/atom+xml" title="Who joined, returned and left" href="feed.atom"/>
<script src="sort.js" defer="defer"></script>
</head>
<body>
<main>
<h1><bdi>{name}</bdi>: mirrors</h1>
<p><strong>{listed} of {known} mirrors are listed</strong>: reachable, fresh and complete when last measured from
outside. For programs: <a href="mirrors.json">mirrors.json</a>
(<a href="mirrors.schema.json">schema</a>), <a href="mirrors.txt">mirrors.txt</a>,
<a href="mirrors-ipv4.txt">for IPv4</a>, <a href="mirrors-ipv6.txt">for IPv6</a>;
news: <a href="feed.atom">feed</a>.</p>
<div class="top">
<div>
<h2>Use it</h2>
<p>Whoever runs the mirror you choose can change what you install from it: choose one whose operator you trust,
and prefer hashes (<code>--require-hashes</code>, lock files).</p>
{snippets}<p>Ready as files: <a href="pip.conf">pip.conf</a>, <a href="uv.toml">uv.toml</a>.</p>
</div>
{map}</div>
<h2>Mirrors</h2>
<div role="region" aria-label="Table of mirrors" tabindex="0">
<table class="sortable">
<caption>Every mirror, where it stands and why. Times are UTC.</caption>
<thead>
<tr>{heads}</tr>
</thead>
<tbody>
{rows}</tbody>
</table>
</div>
<p class="quiet">Score: (hours behind + mean seconds of a probe + their standard deviation) / share of good probes, over
the last day; less is better. 30 days: share of good probes. A certificate ends soon when 14 days are left of it.</p>
</main>
</body>
</html>
"""

# As the clients' own documentation has them.
SNIPPETS = (
    (
        "pip",
        "pip install --index-url INDEX PROJECT\n# from now on:\npip config set global.index-url INDEX",
    ),
    (
        "uv",
        "uv pip install --default-index INDEX PROJECT\n# from now on, in pyproject.toml:\n[[tool.uv.index]]\n"
        'url = "INDEX"\ndefault = true',
    ),
    (
        "poetry",
        "poetry source add mirror INDEX\n# which is in pyproject.toml:\n[[tool.poetry.source]]\n"
        'name = "mirror"\nurl = "INDEX"\npriority = "primary"',
    ),
    (
        "pdm",
        "pdm config pypi.url INDEX\n# or for one project, in pyproject.toml:\n[[tool.pdm.source]]\n"
        'name = "pypi"\nurl = "INDEX"\nverify_ssl = true',
    ),
)


def snippets(index: str) -> str:
    """The two that most people use, and the others one press away."""
    parts = []
    for at, (name, text) in enumerate(SNIPPETS):
        code = f'<pre id="{name}"><code>{text.replace("INDEX", escape(index))}</code></pre>'
        parts.append(
            f"<div>\n<h3>{name}</h3>\n{code}\n</div>\n"
            if at < 2
            else f"<details>\n<summary>{name}</summary>\n{code}\n</details>\n"
        )
    return f'<div class="snippets">\n{"".join(parts)}</div>\n'


def render(found: List, mirrors: list[dict[str, Any]], index: str) -> bytes:
    heads = "".join(f'<th scope="col"{_kind(kind)}>{title}</th>' for title, kind in COLUMNS)
    more = found.findings.more
    page = HEAD + PAGE.format(
        name=escape(found.registry.fleet["name"]),
        listed=sum(mirror["listed"] for mirror in mirrors),
        known=len(mirrors),
        map=world_map(mirrors),
        heads=heads,
        rows="".join(_row(mirror, more.get(mirror["name"], {}), found.now) for mirror in mirrors),
        snippets=snippets(index),
    )
    return checked(page, "index.html")


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _row(mirror: dict[str, Any], more: dict[str, Any], now: int) -> str:
    state = (
        '<span class="good">yes</span>'
        if mirror["listed"]
        else f'<span class="bad">no</span>: {words(mirror["reason"])}'
    )
    since = "" if mirror["listed"] else f"since {moment(mirror['since'])}"
    then = "; ".join(text for text in (since, words(mirror["next"]) if mirror["next"] else "") if text)
    if then:
        state += f'<span class="next">{then}</span>'
    share = mirror["availability"]
    cells = (
        (state, "state"),
        ("" if share is None else f"{100 * share:.1f} %{sparkline(more.get('days'))}", "number"),
        ("" if mirror["score"] is None else f"{mirror['score']:g}", "number"),
        (moment(mirror["last_modified"]), ""),
        (place(mirror), "short"),
        (operator(mirror), "short"),
        (f"{escape(mirror['mode'])}, tier {mirror['tier']}", "line"),
        (" ".join(family.replace("ip", "") for family in mirror["address_families"]), "line"),
        (str(mirror["bandwidth"]), "number"),
        (certificate(more.get("certificate_expires"), now), "line"),
    )
    name = mirror["name"]
    head = f'<th scope="row"><a href="mirror/{file_name(name)}">{escape(name)}</a></th>'
    return f"<tr>{head}{''.join(f'<td{_kind(kind)}>{cell}</td>' for cell, kind in cells)}</tr>\n"


def sparkline(days: list[float | None] | None) -> str:
    """A line of 60 by 14 pixels; days without measurement break it. The share beside it says the same in words."""
    strokes, pen = "", "M"
    for at, share in enumerate(days or []):
        if share is None:
            pen = "M"
            continue
        strokes += f"{pen}{2 * at} {13 - 12 * share:.3g}" + ("h1" if pen == "M" else "")
        pen = "L"
    if not strokes:
        return ""
    return f'<svg class="line" width="60" height="14" aria-hidden="true"><path d="{strokes}"/></svg>'
