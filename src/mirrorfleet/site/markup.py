"""The templates of a fleet's site, and how its pages tell of certificates."""

from collections.abc import Iterable

from markupsafe import Markup

from ..fleet.markup import date, templates
from ..fleet.registry import page_of
from ..fleet.standing import FAMILIES, span

# A certificate that was not renewed by then is likely not to be: 90 days are renewed at 30 by every client we know.
CERTIFICATE_WARNING = 14 * 86400


def certificate(ends: int | None, now: int) -> Markup:
    """When a certificate ends, with a warning in words well before."""
    if ends is None or not 0 <= ends < 2**37:
        return Markup()
    left = ends - now
    if left > CERTIFICATE_WARNING:
        return date(ends)
    return date(ends) + Markup(' <span class="bad">{}</span>').format("ended" if left <= 0 else "ends soon")


def families(names: Iterable[str]) -> str:
    return ", ".join(FAMILIES[name] for name in names)


PAGES = templates(__package__)
PAGES.filters |= {"certificate": certificate, "families": families, "page_of": page_of, "span": span}
