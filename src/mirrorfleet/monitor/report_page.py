"""The report of an audit as a page for people."""

from typing import Any

from ..fleet.markup import HEAD, escape, moment, words

PAGE = """\
<title>Audit of {mirror}</title>
<link rel="stylesheet" href="style.css"/>
</head>
<body>
<main>
<h1>Audit of <bdi>{mirror}</bdi>: <span class="{kind}">{verdict}</span></h1>
<p><a href="{url}">{url}</a>, {when}. {problem}</p>
<p>Files read whole and hashed: {files} ({bytes} bytes). Files asked for: {sampled}, of which {present} are there;
the share of all files is between {low:.1%} and {high:.1%} (95 % confidence).</p>
<table>
<caption>What was looked at</caption>
<thead><tr><th scope="col">Rule</th><th scope="col">Source</th><th scope="col">Over</th>\
<th scope="col">Severity</th><th scope="col">Outcome</th></tr></thead>
<tbody>
{rows}</tbody>
</table>
</main>
</body>
</html>
"""


def page(document: dict[str, Any]) -> bytes:
    """The report for people."""
    outcome = {True: ("good", "passed"), False: ("bad", "failed"), None: ("", "not asked")}
    rows = "".join(
        f'<tr><th scope="row">{escape(one["summary"])}</th><td>{escape(one["source"])}</td>'
        f'<td>{one.get("family", "")}</td><td>{one["severity"]}</td><td><span class="{outcome[one["passed"]][0]}">'
        f"{outcome[one['passed']][1]}</span> {words(one['detail'])}</td></tr>\n"
        for one in document["rules"]
    )
    about = {key: document["completeness"][key] for key in ("sampled", "present", "low", "high")}
    text = HEAD + PAGE.format(
        mirror=escape(document["mirror"]),
        verdict=document["verdict"],
        kind="good" if document["verdict"] == "passed" else "bad",
        url=escape(document["url"]),
        when=moment(document["started"]),
        problem=words(document["problem"]),
        files=document["integrity"]["files"],
        bytes=document["integrity"]["bytes"],
        rows=rows,
        **about,
    )
    return text.encode()
