"""What pages for people share, the fleet's own and a monitor's reports: how templates are read, times, their style."""

import functools
from importlib import resources
from typing import Any
from xml.parsers import expat

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..common.schema import InvalidDocumentError
from .documents import rfc3339, xml_text


class _Environment(Environment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """Templates are given records: a key comes before the method of a dict, and is found at the first look."""
        return obj[attribute] if type(obj) is dict and attribute in obj else super().getattr(obj, attribute)


def templates(package: str) -> Environment:
    """The templates of a room, and what all rooms' extend. Nothing is said in them that is not escaped."""
    found = _Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__)]),
        autoescape=True,
        finalize=_said,
        undefined=StrictUndefined,
        auto_reload=False,
        cache_size=-1,  # a few, compiled once
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"moment": moment, "date": date}
    return found


def _said(value: object) -> object:
    """Every value that a template says, without what XML cannot hold and marks that turn what follows."""
    return xml_text(value) if type(value) is str and not value.isprintable() else value


def static(name: str, package: str = __package__) -> bytes:
    """A file that is published as it is."""
    return resources.files(package).joinpath("static", name).read_bytes()


@functools.lru_cache(10_000)
def moment(at: int | None) -> Markup:
    if at is None or not 0 <= at < 2**37:
        return Markup()
    text = rfc3339(at)
    return Markup(f'<time datetime="{text}">{text[:10]} {text[11:16]}</time>')  # noqa: S704 - digits


@functools.lru_cache(10_000)
def date(at: int) -> Markup:
    text = rfc3339(at)[:10]
    return Markup(f'<time datetime="{text}">{text}</time>')  # noqa: S704 - digits


def checked(text: str, name: str) -> bytes:
    """The page as bytes; InvalidDocumentError when it is not well-formed."""
    page = text.encode()
    try:
        expat.ParserCreate().Parse(page, True)
    except expat.ExpatError as error:
        raise InvalidDocumentError(f"{name} is not well-formed: {error}") from error
    return page
