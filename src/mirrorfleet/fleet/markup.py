"""What pages for people share, the fleet's own and a monitor's reports: their words escaped, their head and style."""

import html
from xml.parsers import expat

from ..common.schema import InvalidDocumentError
from .documents import rfc3339, xml_text

STYLE = """\
:root { color-scheme: light dark; --text: #1b1f24; --paper: #fff; --quiet: #57606a; --line: #d0d7de; --shade: #f6f8fa;
  --link: #0b57b8; --good: #0a6b2d; --bad: #b3261e; --land: #dfe3e8; --bar: #3f7fbf; }
@media (prefers-color-scheme: dark) { :root { --text: #e2e6ea; --paper: #14181c; --quiet: #9aa4ae; --line: #3a424a;
  --shade: #1d2329; --link: #7db7ff; --good: #5fd38a; --bad: #ff9d94; --land: #353d45; --bar: #6aa5e0; } }
body { background: var(--paper); color: var(--text); font: .9375rem/1.45 system-ui, sans-serif; margin: 0; }
main { margin: 0 auto; max-width: 92rem; padding: .75rem 1rem 2rem; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .25rem 0 .5rem; overflow-wrap: anywhere; }
h2 { border-bottom: 1px solid var(--line); font-size: 1.125rem; margin: 1.5rem 0 .5rem; padding-bottom: .2rem; }
h3 { font-size: .9375rem; margin: 0 0 .2rem; }
p { margin: .4rem 0; max-width: 62rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
code, pre { font: .8125rem/1.45 ui-monospace, monospace; }
pre { background: var(--shade); border: 1px solid var(--line); margin: 0; overflow-wrap: anywhere;
  padding: .4rem .6rem; white-space: pre-wrap; }
p code { white-space: nowrap; }
.top { display: grid; gap: 0 2rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 62rem) { .top { grid-template-columns: minmax(0, 10fr) minmax(0, 11fr); } }
.snippets { display: grid; gap: .4rem; grid-template-columns: minmax(0, 1fr); margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
div[role=region] { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: .8125rem; font-variant-numeric: tabular-nums; }
caption { color: var(--quiet); padding: .2rem 0; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .15rem .5rem; text-align: left; vertical-align: top; }
thead th { background: var(--shade); vertical-align: bottom; white-space: nowrap; }
tbody th { background: var(--paper); font-weight: 600; left: 0; position: sticky; white-space: nowrap; }
tbody tr:hover > * { background: var(--shade); }
time { white-space: nowrap; }
td.state { min-width: 15rem; overflow-wrap: anywhere; }
td.line { white-space: nowrap; }
td.short { max-width: 11.5rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
th button { background: none; border: 0; color: inherit; cursor: pointer; font: inherit; padding: .1rem 0;
  text-align: inherit; text-decoration: underline dotted; }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.quiet, .next { color: var(--quiet); }
.next { display: block; font-size: .75rem; }
figure { margin: .75rem 0; }
figcaption { color: var(--quiet); font-size: .8125rem; max-width: 62rem; }
svg.map { display: block; height: auto; margin: 0 auto; max-width: 60rem; width: 100%; }
.map .land { fill: var(--land); fill-rule: evenodd; }
.up { fill: var(--good); fill-opacity: .8; stroke: var(--paper); }
.down { fill: none; stroke: var(--bad); stroke-width: 2; }
svg.line { fill: none; margin-left: .4rem; stroke: currentColor; vertical-align: -2px; }
svg.plot { display: block; height: auto; max-width: 42rem; width: 100%; }
.plot text { fill: var(--quiet); font-size: 11px; }
.plot .bar { fill: var(--bar); }
.plot .axis { fill: none; stroke: var(--line); }
.plot .other { fill: none; stroke: var(--text); stroke-width: 1.5; }
.plot .limit { fill: none; stroke: var(--bad); stroke-dasharray: 4 3; }
dl { display: grid; gap: .15rem 1rem; grid-template-columns: max-content minmax(0, 1fr); margin: .5rem 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
ul.events { list-style: none; margin: .4rem 0; padding: 0; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .3rem; } }
"""

HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
"""


def escape(words: object) -> str:
    return html.escape(xml_text(str(words)))


def words(text: str) -> str:
    """Words of others: kept apart, so that their direction does not spread to ours."""
    return f"<bdi>{escape(text)}</bdi>"


def moment(at: int | None) -> str:
    if at is None or not 0 <= at < 2**37:
        return ""
    text = rfc3339(at)
    return f'<time datetime="{text}">{text[:10]} {text[11:16]}</time>'


def date(at: int) -> str:
    text = rfc3339(at)[:10]
    return f'<time datetime="{text}">{text}</time>'


def checked(text: str, name: str) -> bytes:
    """The page as bytes; InvalidDocumentError when it is not well-formed."""
    page = text.encode()
    try:
        expat.ParserCreate().Parse(page, True)
    except expat.ExpatError as error:
        raise InvalidDocumentError(f"{name} is not well-formed: {error}") from error
    return page
