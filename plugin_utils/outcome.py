"""How an update went, in lines that a person can paste: how long it took, and what clients got meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugin_utils.status import answer_of, mapping
from plugin_utils.told import counted, plain, printable, some, span

MOST = 450  # characters of why a task failed: how it begins, and its end


def update_said(result: Mapping[str, Any]) -> str:
    """Why a task failed: its message, and what the program that it ran said; of a loop the first that failed."""
    failed = [one for one in result.get("results") or [] if mapping(one).get("failed")]
    if failed:
        return update_said(failed[0])
    words = str(result.get("msg") or result.get("censored") or "it said nothing").strip()
    more = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    text = " ".join(plain(words if more in words else f"{words}: {more}").split())
    return text if len(text) <= MOST else f"{text[: MOST // 3]} … {text[-MOST * 2 // 3 :]}"


def update_outcome(
    took: Mapping[str, Sequence[float]],
    plan: Mapping[str, Any],
    served: Mapping[str, Any],
    indexes: Sequence[str],
) -> list[str]:
    """`took` is of each host that was begun when it began and ended; `served` what each said who serves clients."""
    return [*_times({name: (one[0], one[1]) for name, one in took.items() if len(one) == 2}, plan),
            *_served(served, indexes)]  # fmt: skip


def _times(took: Mapping[str, tuple[float, float]], plan: Mapping[str, Any]) -> list[str]:
    if not took:
        return []
    seconds = {name: end - begin for name, (begin, end) in took.items()}
    slowest = sorted(seconds, key=lambda name: -seconds[name])
    each = some([f"{name} {span(seconds[name])}" for name in slowest])
    whole = max(end for _, end in took.values()) - min(begin for begin, _ in took.values())
    count = sum(not seconds.keys().isdisjoint(wave) for wave in _waves(plan))
    pace = whole / (count * seconds[slowest[0]] or 1)
    return [
        f"Took {span(whole)}, in {counted(count, 'wave')}: {each}",
        f"That is {pace:.2f} times as long as {counted(count, 'wave')} at the pace of the slowest.",
    ]


def _waves(plan: Mapping[str, Any]) -> list[list[str]]:
    names = iter(plan["hosts"])
    return [[next(names) for _ in range(size)] for size in plan["sizes"]]


def _served(served: Mapping[str, Any], indexes: Sequence[str]) -> list[str]:
    found, silent = dict[str, tuple[int, int]](), dict[str, str]()
    for name, result in served.items():
        answer = answer_of(result)
        told = mapping(answer.status.get("served"))
        count, failed = told.get("requests"), told.get("failed")
        if type(count) is int and type(failed) is int:
            found[name] = count, failed
        else:
            silent[name] = printable(answer.problem or "its log was not read")
    lines = []
    for what, names in (
        ("mirrors", [name for name in found if name not in indexes]),
        ("the one index", [name for name in found if name in indexes]),
    ):
        if names:
            bad = sorted((name for name in names if found[name][1]), key=lambda name: -found[name][1])
            count = sum(found[name][0] for name in names)
            failed = f"{sum(found[name][1] for name in bad)} failed"
            where = f": {some([f'{name} {found[name][1]}' for name in bad])}" if bad else ""
            by = f"{what} ({counted(len(names), 'host')})"
            lines.append(f"Served meanwhile by {by}: {counted(count, 'request')}, {failed}{where}")
    if silent:
        told_by = some([f"{name} ({why})" for name, why in sorted(silent.items())])
        lines.append(f"How many requests these served, and failed, is not known: {told_by}")
    return lines
