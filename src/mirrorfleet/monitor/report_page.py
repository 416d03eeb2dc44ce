"""The report of an audit as a page for people."""

from typing import Any

from ..fleet.markup import templates

PAGES = templates(__package__)


def page(document: dict[str, Any]) -> bytes:
    return PAGES.get_template("report.html").render(document).encode()
