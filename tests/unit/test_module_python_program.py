"""What python_program finds wrong with an environment, and what it does about it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import python_program
from hypothesis import given
from hypothesis import strategies as st

HASH = "--hash=sha256:" + 64 * "0"
LOCK = f"alpha==1.0 \\\n    {HASH}\nBeta_Two==2.0 {HASH}\n"
WANTED = {"alpha": "1.0", "beta-two": "2.0"}


def record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def add_distribution(site: Path, name: str, version: str) -> Path:
    """As pip leaves one behind: modules, a script outside, bytecode without a hash."""
    files = {
        f"{name}/__init__.py": f"NAME = {name!r}\n".encode(),
        f"{name}-{version}.dist-info/METADATA": f"Name: {name}\n".encode(),
        f"../../../bin/{name}": b"#!python\n",
    }
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    (site / name / "__pycache__").mkdir(exist_ok=True)
    (site / name / "__pycache__/__init__.cpython-311.pyc").write_bytes(b"bytecode")
    info = site / f"{name}-{version}.dist-info"
    (info / "RECORD").write_text(
        "".join(record_line(*file) for file in files.items())
        + f"{name}-{version}.dist-info/RECORD,,\n{name}/__pycache__/__init__.cpython-311.pyc,,\n"
    )
    return info


def make_wheel(folder: Path, content: bytes = b"VERSION = '0.1.0'\n") -> Path:
    path = folder / "mirrorfleet-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mirrorfleet/__init__.py", content)
        archive.writestr(
            "mirrorfleet-0.1.0.dist-info/RECORD",
            record_line("mirrorfleet/__init__.py", content) + "mirrorfleet-0.1.0.dist-info/RECORD,,\n",
        )
    return path


def make_environment(target: Path) -> Path:
    site = target / "lib/python3.13/site-packages"
    site.mkdir(parents=True)
    (target / "bin").mkdir()
    (target / "bin/python").write_text("")
    for name, version in (("alpha", "1.0"), ("beta_two", "2.0"), ("pip", "25.0")):
        add_distribution(site, name, version)
    return site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    make_environment(tmp_path / "demo/1.0")
    return tmp_path / "demo/1.0"


@pytest.fixture
def site(target: Path) -> Path:
    return target / "lib/python3.13/site-packages"


@pytest.fixture(autouse=True)
def wheels(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Debian has pip's wheel."""
    folder = tmp_path_factory.mktemp("wheels")
    (folder / "pip-25.1-py3-none-any.whl").touch()
    monkeypatch.setattr(python_program, "WHEELS", str(folder))
    return folder


# --- the lock ---


def test_a_lock_is_read_by_name_and_version() -> None:
    assert python_program.pins(f"# made by uv\n{LOCK}\n") == WANTED


@pytest.mark.parametrize(
    "line",
    [
        f"alpha>=1.0 {HASH}",
        "alpha==1.0",
        f"alpha {HASH}",
        f"-r other.txt {HASH}",
        f"alpha @ https://host/alpha.whl {HASH}",
        f"alpha==1.0 --hash=md5:{32 * '0'}",
        "--index-url https://elsewhere.example",
        f"alpha==1.* {HASH}",
    ],
)
def test_a_line_that_is_no_exact_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not an exact version with a hash"):
        python_program.pins(f"{LOCK}{line}\n")


@given(st.text(alphabet="aB1-_.", min_size=1).filter(lambda name: name.strip("-_.")))
def test_names_are_compared_as_pep_503_says(name: str) -> None:
    canonical = python_program.canonical(name)
    assert re.fullmatch(r"[a-z0-9-]+", canonical) and "--" not in canonical
    assert python_program.canonical(canonical) == canonical
    assert python_program.canonical(name.replace("-", "_")) == canonical


def test_every_lock_of_this_repository_is_accepted() -> None:
    locks = sorted((Path(__file__).parents[2] / "requirements").glob("*-debian-*.txt"))
    assert locks
    for lock in locks:
        assert python_program.pins(lock.read_text()), lock.name


# --- what is wrong with an environment ---


def test_an_environment_as_locked_has_no_problem(target: Path) -> None:
    assert python_program.problems_of(target, WANTED, None) == []


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "changed": (
        lambda site: (site / "alpha/__init__.py").write_text("import evil\n"),
        "alpha/__init__.py was changed",
    ),
    "of the same size": (
        lambda site: (site / "alpha/__init__.py").write_text("NAME = 'alphA'\n"),
        "alpha/__init__.py was changed",
    ),
    "missing": (lambda site: (site / "alpha/__init__.py").unlink(), "alpha/__init__.py is missing"),
    "a directory instead": (
        lambda site: replace_by_directory(site / "alpha/__init__.py"),
        "alpha/__init__.py is missing",
    ),
    "a script": (
        lambda site: (site / "../../../bin/alpha").write_text("#!evil\n"),
        "../../../bin/alpha was changed",
    ),
    "a module more": (
        lambda site: (site / "sitecustomize.py").write_text(""),
        "sitecustomize.py belongs to no distribution",
    ),
    "a path file more": (
        lambda site: (site / "x.pth").write_text("import os\n"),
        "x.pth belongs to no distribution",
    ),
    "a link more": (lambda site: (site / "os2").symlink_to("/tmp"), "os2 belongs to no distribution"),
    "a distribution more": (lambda site: add_distribution(site, "gamma", "1.0"), "gamma is not in the lock"),
    "a distribution less": (
        lambda site: (site / "beta_two-2.0.dist-info").rename(site.parent / "gone"),
        "beta-two is missing",
    ),
    "another version": (
        lambda site: (site / "alpha-1.0.dist-info").rename(site / "alpha-0.9.dist-info"),
        "alpha is 0.9, not 1.0",
    ),
    "no record": (lambda site: (site / "alpha-1.0.dist-info/RECORD").unlink(), "alpha-1.0.dist-info: "),
    "a broken record": (
        lambda site: (site / "alpha-1.0.dist-info/RECORD").write_bytes(b"\xff,\xff\n"),
        "alpha-1.0.dist-info: ",
    ),
    "an unknown digest": (
        lambda site: (site / "alpha-1.0.dist-info/RECORD").write_text("alpha/__init__.py,rot13=x,1\n"),
        "alpha-1.0.dist-info: ",
    ),
}


@pytest.mark.parametrize(("tamper", "problem"), TAMPERED.values(), ids=TAMPERED.keys())
def test_what_was_tampered_with_is_found(
    target: Path, site: Path, tamper: Callable[[Path], Any], problem: str
) -> None:
    tamper(site)
    assert any(found.startswith(problem) for found in python_program.problems_of(target, WANTED, None))


def test_bytecode_is_nobodys_problem(target: Path, site: Path) -> None:
    (site / "alpha/__pycache__/__init__.cpython-311.pyc").write_bytes(b"made anew")
    (site / "alpha/__pycache__/other.cpython-313.pyc").write_bytes(b"made later")
    assert python_program.problems_of(target, WANTED, None) == []


@pytest.mark.parametrize("part", ["bin/python", "lib"])
def test_a_half_installed_environment_is_one_problem(target: Path, part: str) -> None:
    (target / part).rename(target.parent / "gone")
    assert python_program.problems_of(target, WANTED, None) == [f"{target} is half installed"]


def test_an_own_program_is_compared_with_its_wheel(target: Path, site: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert python_program.problems_of(target, WANTED, wheel) == []
    newer = make_wheel(tmp_path, b"VERSION = '0.1.0'  # rebuilt\n")
    (problem,) = python_program.problems_of(target, WANTED, newer)
    assert problem == "mirrorfleet/__init__.py was changed since mirrorfleet-0.1.0-py3-none-any.whl was built"


WAY = "/opt/other/current/lib/python3.13/site-packages\n"


@pytest.mark.parametrize(
    "tamper",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(f"{WAY}import os\n"),
        lambda path: path.write_text(WAY.replace("current", "1.0")),
        lambda path: path.rename(path.with_suffix(".away")) and path.symlink_to(path.with_suffix(".away")),
    ],
)
def test_a_way_to_another_program_is_there_as_declared_and_otherwise_not(
    target: Path, site: Path, tamper: Callable[[Path], Any]
) -> None:
    (site / "other.pth").write_text(WAY)
    other = Path("/opt/other")
    assert python_program.problems_of(target, WANTED, None, other) == []
    assert python_program.problems_of(target, WANTED, None) == ["other.pth belongs to no distribution"]
    tamper(site / "other.pth")
    assert python_program.problems_of(target, WANTED, None, other)[0] == "other.pth is not as declared"


# --- what is done about it ---


class FailedError(Exception):
    pass


class Module:
    """As much of AnsibleModule as the module needs; `commands` are answered by `answer`."""

    def __init__(self, root: Path, *, check_mode: bool = False, **params: Any) -> None:
        self.params = {"name": "demo", "version": "1.0", "requirements": LOCK, "wheel": None, "extended_by": "",
                       "index_url": "", "root": str(root), "noted": str(root / "update.json")} | params  # fmt: skip
        self.check_mode = check_mode
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.broken = ""  # the word in a command that makes it fail
        self.broken_code = 1

    def run_command(
        self, command: list[str], environ_update: dict[str, str], **_: Any
    ) -> tuple[int, str, str]:
        assert command[0] == "timeout" and int(command[2]) > 0
        self.commands.append(command[3:])
        self.environments.append(environ_update)
        if self.broken and self.broken in command:
            return self.broken_code, "", f"{self.params['index_url']}: the index is down"
        if "venv" in command:
            make_environment(Path(command[-1]))
        return 0, "", ""

    def fail_json(self, msg: str) -> None:
        raise FailedError(msg)


def run(module: Module) -> dict[str, Any]:
    return python_program.run(module)


def snapshot(root: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
    }


def test_a_bare_host_gets_the_program_and_a_link(tmp_path: Path) -> None:
    result = run(Module(tmp_path))
    assert (result["changed"], result["previous"], result["version"]) == (True, "", "1.0")
    assert (tmp_path / "demo/current").readlink() == Path("1.0")
    assert run(Module(tmp_path))["changed"] is False


def test_what_extends_a_program_comes_after_its_own_and_is_of_the_version_that_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(target: Path) -> None:
        venv.create(target)
        (site,) = target.glob("lib/python3*/site-packages")
        (site / "shared.py").write_text("of = 'the program'\n")
        for name, version in (("alpha", "1.0"), ("beta_two", "2.0")):
            add_distribution(site, name, version)
        record = site / "alpha-1.0.dist-info/RECORD"
        record.write_text(f"{record.read_text()}shared.py,,\n")

    monkeypatch.setattr(sys.modules[__name__], "make_environment", make)
    for version in ("1.0", "2.0"):
        site = tmp_path / "other" / version / Path(sysconfig.get_path("purelib", vars={"base": ""})[1:])
        site.mkdir(parents=True)
        (site / "shared.py").write_text("of = 'the other'\n")
        info = add_distribution(site, "other", version)
        (info / "entry_points.txt").write_text(f"[plugins]\nof-{version} = other:NAME\n")
    look = (
        "import shared; from importlib.metadata import entry_points as found;"
        "print(shared.of, *((point.name, point.load()) for point in found(group='plugins')))"
    )
    for version, changed in (("1.0", True), ("2.0", False), ("1.0", False)):
        python_program.point(tmp_path / "other/current", version)
        assert run(Module(tmp_path, extended_by="other"))["changed"] is changed
        python = tmp_path / "demo/current/bin/python"
        seen = subprocess.run([python, "-c", look], capture_output=True, text=True, check=True).stdout
        assert seen == f"the program ('of-{version}', 'other')\n"


def test_hashes_are_required_and_nothing_is_built(tmp_path: Path) -> None:
    module = Module(tmp_path, index_url="https://index.example/simple/")
    run(module)
    pip = module.commands[-1]
    assert {"--require-hashes", "--only-binary"} <= set(pip)
    assert "--no-deps" not in pip, "a lock that lacks something would not be refused"


def test_an_own_wheel_is_a_locked_line_more_and_its_needs_are_nobodys(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    seen = []

    class Reading(Module):
        def run_command(
            self, command: list[str], environ_update: dict[str, str], **_: Any
        ) -> tuple[int, str, str]:
            done = super().run_command(command, environ_update)
            if "-r" in command:
                seen.append(Path(command[command.index("-r") + 1]).read_text())
                (site,) = (tmp_path / "demo/1.0").glob("lib/python3*/site-packages")
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(site)
            return done

    module = Reading(tmp_path, wheel=str(wheel))
    assert run(module)["changed"] and not run(Reading(tmp_path, wheel=str(wheel)))["changed"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert seen == [f"{LOCK}\n{wheel} --hash=sha256:{digest}\n"]
    assert {"--require-hashes", "--no-deps"} <= set(module.commands[-1])


def test_a_host_without_what_makes_environments_is_told_what_to_install(tmp_path: Path, wheels: Path) -> None:
    shutil.rmtree(wheels)
    with pytest.raises(FailedError, match=r"there is no pip in .*: install the package python3-venv"):
        run(Module(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_index_is_no_argument_that_others_see_and_its_password_is_told_nowhere(tmp_path: Path) -> None:
    url = "https://me:s3cret@index.example/simple/"
    module = Module(tmp_path, index_url=url)
    module.broken = "--require-hashes"
    with pytest.raises(FailedError, match=r"https://index\.example/simple/: the index is down") as caught:
        run(module)
    assert "s3cret" not in str(caught.value) + str(module.commands)
    assert module.environments[-1]["PIP_INDEX_URL"] == url


def test_an_index_that_hangs_is_told(tmp_path: Path) -> None:
    module = Module(tmp_path)
    module.broken, module.broken_code = "--require-hashes", 124
    with pytest.raises(FailedError, match="nothing, for 1800 seconds: look at the host's way to its index"):
        run(module)


def test_check_mode_tells_and_changes_nothing(tmp_path: Path, target: Path, site: Path) -> None:
    (site / "x.pth").write_text("")
    before = snapshot(tmp_path)
    module = Module(tmp_path, check_mode=True)
    result = run(module)
    assert result["changed"] and result["problems"] == ["x.pth belongs to no distribution"]
    assert "after" in result["diff"]
    assert (snapshot(tmp_path), module.commands) == (before, [])


def test_check_mode_on_a_bare_host_needs_no_wheel(tmp_path: Path) -> None:
    module = Module(tmp_path, check_mode=True, wheel=str(tmp_path / "mirrorfleet-0.1.0-py3-none-any.whl"))
    assert run(module)["problems"][0].endswith("is not on the host")


@pytest.mark.parametrize("broken", ["venv", "zipfile", "--require-hashes"])
def test_what_was_there_is_back_when_an_installation_fails(
    tmp_path: Path, target: Path, site: Path, broken: str
) -> None:
    (site / "x.pth").write_text("")
    (tmp_path / "demo/current").symlink_to("1.0")
    before = snapshot(tmp_path)
    module = Module(tmp_path)
    module.broken = broken
    with pytest.raises(FailedError, match=r"what was there is untouched.*the index is down"):
        run(module)
    assert snapshot(tmp_path) == before


def test_an_update_keeps_the_former_version_and_no_older_one(tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        result = run(Module(tmp_path, version=version))
    assert (result["previous"], result["version"]) == ("2.0", "3.0")
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["2.0", "3.0", "current"]


@pytest.mark.parametrize(
    ("noted", "kept"),
    [
        ('{"gated": {"demo": "1.0"}}', ["1.0", "3.0", "4.0"]),
        ('{"gated": {"other": "1.0"}}', ["3.0", "4.0"]),
        # What cannot be read may name any of them.
        ('{"gated', ["1.0", "2.0", "3.0", "4.0"]),
        ('{"gated": 7}', ["1.0", "2.0", "3.0", "4.0"]),
    ],
)
def test_the_version_that_last_passed_the_gate_stays_however_often_an_update_was_killed(
    tmp_path: Path, noted: str, kept: list[str]
) -> None:
    for version in ("1.0", "2.0"):
        run(Module(tmp_path, version=version))
    note = tmp_path / "update.json"
    # Written before 2.0 was linked; the runs after that never got to a gate.
    note.write_text(noted)
    for version in ("3.0", "4.0"):
        run(Module(tmp_path, version=version, noted=str(note)))
    found = sorted(path.name for path in (tmp_path / "demo").iterdir() if path.name != "current")
    assert found == kept


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", "../x"), ("version", "current"), ("name", "a/b"), ("version", ""), ("extended_by", "a\nb")],
)
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(FailedError, match="is refused"):
        run(Module(tmp_path, **dict[str, Any]({key: value})))
    assert list(tmp_path.iterdir()) == []
