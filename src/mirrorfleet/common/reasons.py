"""Why a project is not here as upstream has it: in words for a person, and of one of few kinds, which are counted."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, Self

Kind = Literal[
    "behind",
    "connection",
    "HTTP error",
    "malformed",
    "not found",
    "not stored",
    "timeout",
    "too large",
    "wrong hash",
    "wrong size",
]


class Reason(str):
    """The words, with their kind."""

    kind: Kind

    def __new__(cls, words: object, kind: Kind) -> Self:
        reason = super().__new__(cls, words)
        reason.kind = kind
        return reason

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Of what went wrong with one project: an error that tells its kind, one of the file system, or of content."""
        kind: Kind = "not stored" if isinstance(error, OSError) else "malformed"
        return cls(error, getattr(error, "kind", kind))


def by_kind(reasons: Iterable[Reason]) -> dict[str, int]:
    return dict(sorted(Counter(reason.kind for reason in reasons).items()))
