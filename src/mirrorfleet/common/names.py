"""Names and paths that come from upstream, checked before they touch a file system."""

import re
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

_PROJECT = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_COMPONENT = 255  # bytes; the limit of every file system we serve from
_MAX_PATH = 1024
SIDECAR = ".metadata"


class InvalidNameError(ValueError):
    """A name that must not become a path."""


def escaped(value: object) -> str:
    """As Python writes it, in ASCII; what could just be read may be nested too deep for that."""
    try:
        return ascii(value)
    except RecursionError:
        return "nested too deep"


def shown(value: object) -> str:
    """A hostile value, short and printable, for a log line."""
    text = escaped(value)
    length = len(value) if isinstance(value, str) else len(text)
    return text if len(text) <= 120 else f"{text[:100]}… ({length} characters)"


def project_name(raw: str) -> str:
    """The PEP 503 normalised name, which is also the name of its directory."""
    name = canonicalize_name(raw) if len(raw) <= _MAX_COMPONENT else ""
    if not _PROJECT.fullmatch(name):
        raise InvalidNameError(f"not a project name: {shown(raw)}")
    return name


def own_name(raw: object) -> str:
    """A project's name as our own tiers write it, normalised already."""
    if not isinstance(raw, str) or project_name(raw) != raw:
        raise InvalidNameError(f"not a project name: {shown(raw)}")
    return raw


def is_sha256(text: str) -> bool:
    """Whether it is one as pages write it, in lower case; TypeError for what is no text."""
    return _SHA256.fullmatch(text) is not None


def _component(part: str) -> str:
    if part in ("", ".", "..") or "/" in part or "\\" in part:
        raise InvalidNameError(f"not a path component: {shown(part)}")
    if _CONTROL.search(part):
        raise InvalidNameError(f"control character in {shown(part)}")
    try:
        size = len(part.encode())
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"not encodable: {shown(part)}") from error
    if size > _MAX_COMPONENT:
        raise InvalidNameError(f"too long: {shown(part)}")
    return part


def fits_a_sidecar(filename: str) -> bool:
    """Whether the name of its sidecar, which is longer, can be a file's too."""
    return len(filename.encode()) <= _MAX_COMPONENT - len(SIDECAR)


def sidecar_url(url: str) -> str:
    """Where the sidecar of a file is that has this URL, which may have a query and a fragment."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path + SIDECAR, fragment="").geturl()


def file_name(raw: str) -> str:
    """A distribution's file name; dot files and the names of sidecars are ours."""
    name = _component(raw)
    if name.startswith(".") or name.endswith(SIDECAR):
        raise InvalidNameError(f"reserved file name: {shown(raw)}")
    return name


def served_path(url: str, filename: str) -> str:
    """The path below the tree's root for a file that upstream serves below /packages/."""
    if len(url) > 4 * _MAX_PATH:
        raise InvalidNameError(f"too long: {shown(url)}")
    try:
        path = unquote(urlsplit(url).path, errors="strict")
    except ValueError as error:
        raise InvalidNameError(f"not a URL: {shown(url)}") from error
    if not path.startswith("/packages/"):
        raise InvalidNameError(f"not below /packages/: {shown(url)}")
    parts = [_component(part) for part in path[1:].split("/")]
    if parts[-1] != file_name(filename):
        raise InvalidNameError(f"URL {shown(url)} does not end with its file name {shown(filename)}")
    if len(path) > _MAX_PATH:
        raise InvalidNameError(f"too long: {shown(path)}")
    return "/".join(parts)


def addressed_path(sha256: str, filename: str) -> str:
    """The path of a file whose upstream has no /packages/ layout, or no upstream at all."""
    if not is_sha256(sha256):
        raise InvalidNameError(f"not a sha256: {shown(sha256)}")
    return f"packages/{sha256[:2]}/{sha256[2:4]}/{sha256[4:]}/{file_name(filename)}"
