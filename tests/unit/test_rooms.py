"""The rooms of src/mirrorfleet: two wings on one ground. Nothing imports in a circle and no arrow runs upward."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src/mirrorfleet"
# By room, what it may import beside itself. A room that is not here is none.
ROOMS = {
    "common": set(),
    "index": {"common"},
    "served": {"index", "common"},
    "fetch": {"served", "index", "common"},
    "sync": {"fetch", "served", "index", "common"},
    "fleet": {"common"},
    "site": {"fleet", "common"},
    "monitor": {"fleet", "common"},
    "route": {"fleet", "common"},
}
WINGS = ({"index", "served", "fetch", "sync"}, {"fleet", "site", "monitor", "route"})
BOTH = "cli"  # alone knows both wings


def imports(path: Path, root: Path) -> set[tuple[str, ...]]:
    """The modules of ours that a file imports, as parts of their names: ("served", "tree"), () for the package."""
    found = set()
    folder = ("mirrorfleet", *path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else ()
            names = [".".join(filter(None, [*base, node.module, alias.name])) for alias in node.names]
        else:
            continue
        for first, *parts in (name.split(".") for name in names):
            if first == "mirrorfleet":
                inner = root.joinpath(*parts)
                # Of what is no module the last part is a name within one.
                module = inner.is_dir() or inner.with_suffix(".py").is_file() or isinstance(node, ast.Import)
                found.add(tuple(parts if module else parts[:-1]))
    return found


def wrong(root: Path) -> list[str]:
    """Every import that the house forbids, and every file where none belongs."""
    found, graph = [], {}
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).with_suffix("").parts
        if path.name == "__init__.py":
            module = module[:-1]
        targets = imports(path, root)
        graph[module] = targets - {module}
        shown = "/".join(path.relative_to(root).parts)
        if module in ((), (BOTH,)):
            continue
        if module[0] not in ROOMS or len(module) > 2:
            found.append(f"{shown} is in no room")
            continue
        for target in sorted(target for target in targets if target):
            if target[0] not in ROOMS[module[0]] | {module[0]}:
                found.append(f"{shown} imports {'.'.join(target)}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("in a circle: " + " <- ".join(".".join(one) for one in error.args[1]))
    return found


def test_no_arrow_runs_upward_and_nothing_imports_in_a_circle():
    assert wrong(SOURCE) == []


def test_every_room_is_there():
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == ROOMS.keys()
    assert {path.stem for path in SOURCE.glob("*.py")} == {"__init__", BOTH}


def test_the_table_is_two_wings_on_one_ground():
    graphlib.TopologicalSorter(ROOMS).prepare()
    one, other = WINGS
    assert one | other | {"common"} == ROOMS.keys()
    for wing in WINGS:
        for room in wing:
            assert ROOMS[room] <= wing | {"common"}


def test_the_command_line_alone_knows_both_wings():
    known = {target[0] for target in imports(SOURCE / f"{BOTH}.py", SOURCE) if target}
    assert all(known & wing for wing in WINGS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_and_what_it_may_import(room):
    (only,) = ast.parse((SOURCE / room / "__init__.py").read_text()).body
    assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)
    text = only.value.value
    assert len(text) > 80 and "\n\n" not in text, "one paragraph"
    told = re.search(r"imports? (.*?)(\.|, and nothing)", text.replace("\n", " "))
    assert told and set(re.findall(r"\w+", told[1])) & ROOMS.keys() == ROOMS[room]


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("common/log.py", "from ..served import tree", "common/log.py imports served.tree"),
        ("served/tree.py", "from ..fetch.rsync import Transfer", "served/tree.py imports fetch.rsync"),
        ("monitor/audit.py", "from ..site.markup import STYLE", "monitor/audit.py imports site.markup"),
        ("sync/run.py", "from ..fleet.registry import load", "sync/run.py imports fleet.registry"),
        ("site/publish.py", "from mirrorfleet.index import pages", "site/publish.py imports index.pages"),
        ("fleet/health.py", "import mirrorfleet.sync.run", "fleet/health.py imports sync.run"),
        (
            "fleet/health.py",
            "def f():\n    from ..monitor import track",
            "fleet/health.py imports monitor.track",
        ),
        ("fleet/health.py", "from .. import cli", "fleet/health.py imports cli"),
        ("fleet/health.py", "from .. import site", "fleet/health.py imports site"),
        ("attic/old.py", "", "attic/old.py is in no room"),
        ("common/attic/old.py", "", "common/attic/old.py is in no room"),
        ("loose.py", "", "loose.py is in no room"),
    ],
)
def test_what_the_house_forbids_is_found(tmp_path, file, text, problem):
    fill(tmp_path, dict.fromkeys(("served/tree.py", "monitor/track.py", "index/pages.py", "cli.py"), ""))
    fill(tmp_path, {"site/__init__.py": "", file: text})
    assert wrong(tmp_path) == [problem]


def test_a_circle_within_a_room_is_found(tmp_path):
    fill(tmp_path, {"served/tree.py": "from .state import State", "served/state.py": "from . import tree"})
    (found,) = wrong(tmp_path)
    assert found.startswith("in a circle: ") and "served.tree" in found and "served.state" in found


def fill(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
