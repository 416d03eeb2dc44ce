"""host_state on the host: what is found is compared, what is declared is put in place. Without a host."""

from __future__ import annotations

import base64
import grp
import hashlib
import importlib.util
import multiprocessing
import os
import pwd
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOUSE = Path(__file__).parents[2]
ME = pwd.getpwuid(os.geteuid()).pw_name
MY_GROUP = grp.getgrgid(os.getegid()).gr_name


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


host = load(HOUSE / "library/host_state.py", "host_state_module")


def file(path: Path, content: str | None = "right\n", **further: Any) -> dict[str, Any]:
    """A file both as the check sees it (digest) and as it is written (content)."""
    item: dict[str, Any] = {
        "path": str(path),
        "owner": ME,
        "group": MY_GROUP,
        "mode": "0640",
        "secret": False,
    }
    if content is not None:
        item["sha256"] = hashlib.sha256(content.encode()).hexdigest()
        item["content"] = base64.b64encode(content.encode()).decode()
    else:
        item["content"] = None
    return item | {"validate": None} | further


def directory(path: Path, **further: Any) -> dict[str, Any]:
    return {"path": str(path), "owner": ME, "group": MY_GROUP, "mode": "0750"} | further


def checked(**sections: Any) -> list[tuple[str, str, str, str]]:
    empty: dict[str, Any] = {
        "packages": [], "groups": [], "users": [], "directories": [], "files": [], "links": [], "absent": [],
        "firewall": None, "units": [], "unit_files": [], "handlers": [], "state_directory": "/nonexistent",
        "remember": False, "with_contents": False, "action": "check",
    }  # fmt: skip
    answer = host.answer(empty | sections)
    assert "failed" not in answer, answer
    return [(entry["kind"], entry["what"], entry["before"], entry["after"]) for entry in answer["drift"]]


def applied(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"directories": [], "files": [], "links": [], "absent": [], "owed": {}}
    request = empty | {"action": "apply", "state_directory": str(tmp_path / "state")} | sections
    answer: dict[str, Any] = host.answer(request)
    return answer


def leftovers(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob(".*.host_state"))


# --- files ----------------------------------------------------------------------------------------


def test_a_file_as_declared_is_no_drift(tmp_path: Path) -> None:
    item = file(tmp_path / "a")
    assert applied(tmp_path, files=[item]) == {}
    assert checked(files=[item]) == []
    assert (tmp_path / "a").read_text() == "right\n"


def test_content_is_compared_whatever_the_modification_time_and_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    applied(tmp_path, files=[file(path)])
    before = path.stat()
    path.write_text("wrong\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size == before.st_size
    [(kind, what, _, _)] = checked(files=[file(path)])
    assert (kind, what) == ("file", "content")


@pytest.mark.parametrize("mode", ["0600", "0666", "4640", "0644"])
def test_every_bit_of_the_mode_is_compared(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a"
    applied(tmp_path, files=[file(path)])
    path.chmod(int(mode, 8))
    assert checked(files=[file(path)]) == [("file", "mode", mode, "0640")]
    applied(tmp_path, files=[file(path, content=None)])
    assert checked(files=[file(path)]) == []


def test_an_owner_that_does_not_exist_yet_is_drift_and_cannot_be_repaired(tmp_path: Path) -> None:
    path = tmp_path / "a"
    applied(tmp_path, files=[file(path)])
    later = file(path, owner="nobody-yet", group="none-yet")
    assert checked(files=[later]) == [
        ("file", "owner", ME, "nobody-yet"),
        ("file", "group", MY_GROUP, "none-yet"),
    ]
    answer = applied(tmp_path, files=[later | {"content": None}])
    assert answer["failed"]
    assert "there is no user nobody-yet to own it; declare it in users" in answer["msg"]


def test_owners_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a"
    numbered = file(path, owner=str(os.geteuid()), group=str(os.getegid()))
    applied(tmp_path, files=[numbered])
    assert checked(files=[numbered]) == []


def in_place_of(kind: str, path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_text("right\n")
    elsewhere.chmod(0o640)
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "fifo", "nothing"])
def test_what_is_no_file_is_drift_and_makes_way(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    in_place_of(kind, path)
    [(_, what, before, after)] = checked(files=[file(path)])
    assert (what, after) == ("state", "file")
    assert before != "file"
    assert applied(tmp_path, files=[file(path)]) == {}
    assert checked(files=[file(path)]) == []
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "right\n"
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o640


def test_a_directory_with_something_in_it_never_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "precious").touch()
    for sections in ({"files": [file(path)]}, {"links": [{"path": str(path), "target": "t"}]}):
        answer = applied(tmp_path, **sections)
        assert "is a directory that is not empty" in answer["msg"]
        assert (path / "precious").exists()
    assert leftovers(tmp_path) == []


def test_a_file_has_its_owner_and_mode_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a world readable file stood before: the new content is at no moment readable by others."""
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(0o666)
    modes: list[int] = []
    replace = os.replace

    def watched(source: str, target: str) -> None:
        modes.append(os.stat(source).st_mode & 0o777)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    applied(tmp_path, files=[file(path, mode="0600")])
    assert modes == [0o600]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    answer = applied(tmp_path, files=[file(tmp_path / "no/a")])
    assert answer["msg"] == f"{tmp_path}/no/a: its directory does not exist; declare it in directories"


def test_one_invalid_file_leaves_all_as_they_were(tmp_path: Path) -> None:
    good, bad = tmp_path / "a", tmp_path / "b"
    good.write_text("old")
    answer = applied(
        tmp_path, files=[file(good), file(bad, validate="grep -q wrong %s")], owed={"reload": str(good)}
    )
    assert answer["msg"].startswith(f"{bad}: grep -q wrong %s refuses it; no file was changed")
    assert good.read_text() == "old"
    assert not bad.exists()
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "state").exists()


def test_a_validator_judges_the_new_content_and_is_no_shell(tmp_path: Path) -> None:
    path = tmp_path / "a b;touch c"
    assert applied(tmp_path, files=[file(path, validate="grep -q right %s")]) == {}
    assert path.read_text() == "right\n"


def test_what_a_validator_says_about_a_secret_is_hidden(tmp_path: Path) -> None:
    item = file(tmp_path / "a", content="hunter2\n", validate="grep hunter2 nothing %s")
    assert "hunter2:" not in (said := applied(tmp_path, files=[item | {"secret": True}])["msg"])
    assert "hidden" in said
    assert "a.host_state:hunter2" in applied(tmp_path, files=[item])["msg"]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.host_state").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("untouched")
    assert applied(tmp_path, files=[file(tmp_path / "a")]) == {}
    assert (tmp_path / "victim").read_text() == "untouched"
    assert leftovers(tmp_path) == []


def often(tmp_path: Path, content: str) -> list[dict[str, Any]]:
    files = [file(tmp_path / f"file{number}", content) for number in range(5)]
    return [applied(tmp_path, files=files) for _ in range(100)]


def test_two_plays_that_change_the_same_files_do_not_meet(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        runs = [pool.submit(often, tmp_path, content) for content in ("one\n", "two\n")]
        outcomes = [outcome for run in runs for outcome in run.result()]
    assert [outcome for outcome in outcomes if outcome] == []
    # Whoever came last, it is theirs altogether.
    assert len({(tmp_path / f"file{number}").read_text() for number in range(5)}) == 1
    assert leftovers(tmp_path) == []


def test_present_contents_are_returned_for_a_diff_but_not_those_of_secrets_or_link_targets(
    tmp_path: Path,
) -> None:
    open_, secret, link = tmp_path / "open", tmp_path / "secret", tmp_path / "link"
    open_.write_text("old")
    secret.write_text("hunter2")
    link.symlink_to(secret)
    found: dict[str, str] = {}
    drift = host.Drift()
    host.check_files([file(open_), file(secret, secret=True), file(link)], drift, found)
    assert {path: base64.b64decode(text) for path, text in found.items()} == {str(open_): b"old"}
    told = {(entry["name"], entry["what"]): entry["before"] + entry["after"] for entry in drift}
    assert told[(str(secret), "content")] == "(secret, as found)(secret, as declared)"


# --- directories, links, absent paths -------------------------------------------------------------


def test_directories_are_made_and_kept_and_links_to_directories_are_drift(tmp_path: Path) -> None:
    path = tmp_path / "d"
    assert checked(directories=[directory(path)]) == [("directory", "state", "absent", "directory")]
    assert applied(tmp_path, directories=[directory(path), directory(path / "e")]) == {}
    (path / "kept").touch()
    path.chmod(0o777)
    assert checked(directories=[directory(path)]) == [("directory", "mode", "0777", "0750")]
    assert applied(tmp_path, directories=[directory(path)]) == {}
    assert (path / "kept").exists()
    other = tmp_path / "link"
    other.symlink_to(path)
    assert checked(directories=[directory(other)]) == [("directory", "state", f"link to {path}", "directory")]
    assert applied(tmp_path, directories=[directory(other)]) == {}
    assert not other.is_symlink()
    assert (path / "kept").exists()


def test_a_directory_below_a_missing_one_is_made(tmp_path: Path) -> None:
    assert applied(tmp_path, directories=[directory(tmp_path / "x/y")]) == {}
    assert checked(directories=[directory(tmp_path / "x/y")]) == []


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "fifo", "nothing"])
def test_links_say_what_is_declared(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    in_place_of(kind, path)
    link = {"path": str(path), "target": "../somewhere"}
    assert len(checked(links=[link])) == 1
    assert applied(tmp_path, links=[link]) == {}
    assert os.readlink(path) == "../somewhere"
    assert checked(links=[link]) == []
    assert leftovers(tmp_path) == []


def test_absent_paths_go_with_what_is_in_them_but_not_with_what_they_point_to(tmp_path: Path) -> None:
    tree, link, file_, target = (tmp_path / name for name in ("tree", "link", "file", "target"))
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/a").touch()
    target.mkdir()
    (target / "kept").touch()
    link.symlink_to(target)
    file_.touch()
    absent = [{"path": str(path)} for path in (tree, link, file_, tmp_path / "never/was")]
    assert len(checked(absent=absent)) == 3
    assert applied(tmp_path, absent=absent) == {}
    assert checked(absent=absent) == []
    assert (target / "kept").exists()


# --- owed handlers --------------------------------------------------------------------------------


def test_a_handler_is_owed_from_before_the_change_until_it_is_settled(tmp_path: Path) -> None:
    state, blocked = str(tmp_path / "state"), tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "x").touch()
    name = "web server/reload é ../x"
    answer = applied(
        tmp_path,
        files=[file(tmp_path / "a")],
        links=[{"path": str(blocked), "target": "t"}],
        owed={name: "/etc/a", "other": "/etc/a"},
    )
    assert answer["failed"]
    assert (tmp_path / "a").exists()
    asked = {"handlers": [name, "never owed"], "state_directory": state}
    assert checked(**asked) == [("handler", "owed", "not settled since /etc/a changed", "settled")]
    assert host.answer({"action": "settle", "handlers": [name, "never owed"], "state_directory": state}) == {}
    assert checked(**asked) == []
    assert len(checked(handlers=["other"], state_directory=state)) == 1
    assert list(tmp_path.rglob("x")) == [blocked / "x"]


# --- packages, groups, users ----------------------------------------------------------------------


def fake_run(monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str | tuple[int, str]]) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        output = outputs[command[0]]
        code, said = output if isinstance(output, tuple) else (0, output)
        return subprocess.CompletedProcess(command, code, said if code == 0 else "", said if code else "")

    monkeypatch.setattr(host, "run", run)
    return calls


LISTED = """nginx\tinstalled\t1.26.3-3+deb13u1
gone\tconfig-files\t1.0
multi\tnot-installed\t
multi\tinstalled\t2.0
"""


def fake_dpkg(
    monkeypatch: pytest.MonkeyPatch, dpkg: Path, listed: str, journal: str = "tmp.i"
) -> list[list[str]]:
    (dpkg / "updates").mkdir()
    (dpkg / "updates" / journal).touch()
    (dpkg / "lock-frontend").touch()
    monkeypatch.setattr(host, "DPKG", str(dpkg))
    return fake_run(monkeypatch, {"dpkg-query": listed})


def test_packages_are_installed_in_the_version_declared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = fake_dpkg(monkeypatch, tmp_path, LISTED)
    wanted = [
        ("nginx", "1.26.*"), ("nginx", "1.26.[3]-*"), ("nginx", "1.27.*"), ("nginx", "1.26.3"), ("nginx", None),
        ("gone", None), ("never", None), ("multi", "2.0"),
    ]  # fmt: skip
    assert checked(packages=[{"name": name, "version": version} for name, version in wanted]) == [
        ("package", "version", "1.26.3-3+deb13u1", "1.27.*"),
        ("package", "version", "1.26.3-3+deb13u1", "1.26.3"),
        ("package", "state", "absent", "installed"),
        ("package", "state", "absent", "installed"),
    ]
    assert len(calls) == 1


NGINX = {"name": "nginx", "version": None}
HALF = "nginx\thalf-configured\t1.0\n"


def test_an_interrupted_dpkg_is_drift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_dpkg(monkeypatch, tmp_path, LISTED, journal="0001")
    assert checked(packages=[NGINX]) == [("package", "interrupted", "yes", "no")]


def test_a_half_configured_package_is_drift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_dpkg(monkeypatch, tmp_path, HALF)
    assert checked(packages=[NGINX]) == [
        ("package", "state", "half-configured", "installed"),
        ("package", "interrupted", "yes", "no"),
    ]


def test_another_run_of_dpkg_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a fresh machine that is just upgrading itself: what it is in the midst of is no drift."""
    fake_dpkg(monkeypatch, tmp_path, HALF)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl,sys; f=open({str(tmp_path / 'lock-frontend')!r},'w');"
         "fcntl.lockf(f,fcntl.LOCK_EX); print('held',flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        def finish(seconds: float) -> None:
            assert host.dpkg_is_busy()
            holder.communicate()
            fake_run(monkeypatch, {"dpkg-query": LISTED})

        monkeypatch.setattr(host.time, "sleep", finish)
        assert checked(packages=[NGINX]) == []
        assert not host.dpkg_is_busy()


def test_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    gid = os.getegid()
    assert checked(groups=[{"name": MY_GROUP, "gid": gid}, {"name": MY_GROUP, "gid": None}]) == []
    assert checked(groups=[{"name": MY_GROUP, "gid": gid + 1}]) == [("group", "gid", str(gid), str(gid + 1))]
    assert checked(groups=[{"name": "never-was", "gid": None}]) == [("group", "state", "absent", "present")]


def test_users_have_the_exact_supplementary_groups_when_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.struct_passwd(("mirror", "x", 990, 990, "old", "/nonexistent/home", "/bin/sh"))
    groups = [
        grp.struct_group(("mirror", "x", 990, [])),
        grp.struct_group(("adm", "x", 4, ["mirror"])),
        grp.struct_group(("sudo", "x", 27, ["mirror"])),
    ]
    monkeypatch.setattr(pwd, "getpwnam", {"mirror": account}.__getitem__)
    monkeypatch.setattr(grp, "getgrall", lambda: groups)
    monkeypatch.setattr(grp, "getgrgid", {group.gr_gid: group for group in groups}.__getitem__)
    silent: dict[str, Any] = dict.fromkeys(("uid", "group", "groups", "home", "shell", "comment"))
    user = silent | {"name": "mirror", "create_home": False}
    assert checked(users=[user]) == []
    assert checked(users=[user | {"name": "other"}]) == [("user", "state", "absent", "present")]
    assert checked(users=[user | {"groups": ["sudo", "adm"]}]) == []
    assert checked(users=[user | {"groups": ["adm"]}]) == [("user", "groups", "adm sudo", "adm")]
    assert checked(users=[user | {"groups": []}]) == [("user", "groups", "adm sudo", "")]
    wrong = {"uid": 1, "group": "adm", "home": "/h", "shell": "/s", "comment": "", "create_home": True}
    assert [what for _, what, _, _ in checked(users=[user | wrong])] == [
        "uid", "group", "home", "shell", "comment", "home directory",
    ]  # fmt: skip


# --- units ----------------------------------------------------------------------------------------


def shown(load: str, active: str, sub: str, file_state: str, reload: str = "no") -> str:
    return (
        f"LoadState={load}\nActiveState={active}\nSubState={sub}\n"
        f"UnitFileState={file_state}\nNeedDaemonReload={reload}\n"
    )


RUNS = shown("loaded", "active", "running", "enabled")


@pytest.mark.parametrize(
    ("state", "wanted", "drift"),
    [
        (RUNS, {"enabled": True, "state": "started"}, []),
        (RUNS, {}, []),
        (RUNS, {"enabled": False}, ["enabled"]),
        (RUNS, {"state": "stopped"}, ["active"]),
        (RUNS, {"masked": True}, ["masked"]),
        (
            shown("loaded", "inactive", "dead", "disabled"),
            {"enabled": True, "state": "started"},
            ["enabled", "active"],
        ),
        (shown("loaded", "failed", "failed", "enabled"), {"state": "started"}, ["active"]),
        (shown("loaded", "failed", "failed", "enabled"), {"state": "stopped"}, []),
        (shown("loaded", "activating", "start", "enabled"), {"state": "started"}, []),
        (shown("loaded", "activating", "auto-restart", "enabled"), {"state": "started"}, ["active"]),
        (shown("loaded", "deactivating", "stop", "enabled"), {"state": "started"}, ["active"]),
        (shown("loaded", "active", "running", "enabled-runtime"), {"enabled": True}, ["enabled"]),
        (shown("loaded", "active", "running", "enabled-runtime"), {"enabled": False}, ["enabled"]),
        (shown("loaded", "active", "running", "static"), {"enabled": True}, []),
        (shown("loaded", "active", "running", "static"), {"enabled": False}, []),
        (
            shown("masked", "inactive", "dead", "masked"),
            {"enabled": True, "state": "started"},
            ["masked", "active"],
        ),
        (shown("masked", "inactive", "dead", "masked-runtime"), {"enabled": True}, ["masked"]),
        (shown("masked", "inactive", "dead", "masked"), {"masked": True, "state": "stopped"}, []),
        (shown("not-found", "inactive", "dead", ""), {"enabled": True}, ["state", "enabled"]),
        (shown("not-found", "inactive", "dead", ""), {"state": "started"}, ["state", "active"]),
        (shown("not-found", "inactive", "dead", ""), {"enabled": False, "state": "stopped"}, []),
        (shown("not-found", "inactive", "dead", ""), {"enabled": False}, []),
        (shown("loaded", "active", "running", "enabled", "yes"), {"enabled": True}, ["definition"]),
    ],
)
def test_units(monkeypatch: pytest.MonkeyPatch, state: str, wanted: dict[str, Any], drift: list[str]) -> None:
    fake_run(monkeypatch, {"systemctl": state})
    unit: dict[str, Any] = {"name": "a.service", "enabled": None, "state": None, "masked": False}
    assert [what for _, what, _, _ in checked(units=[unit | wanted])] == drift


def test_all_units_are_asked_for_at_once_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    other = shown("loaded", "active", "running", "enabled", "yes")
    calls = fake_run(
        monkeypatch, {"systemctl": "\n".join([shown("loaded", "inactive", "dead", "enabled"), RUNS, other])}
    )
    started: dict[str, Any] = {"enabled": None, "state": "started", "masked": False}
    units = [started | {"name": name} for name in ("a.service", "b.service")]
    drift = host.Drift()
    host.check_units(units, ["c.service"], drift)
    assert [(entry["name"], entry["what"]) for entry in drift] == [
        ("a.service", "active"),
        ("c.service", "definition"),
    ]
    assert len(calls) == 1
    assert calls[0][-3:] == ["a.service", "b.service", "c.service"]


# --- firewall -------------------------------------------------------------------------------------

LIVE = """table inet a {
\tset fixed {
\t\ttype ipv4_addr
\t\telements = { 192.0.2.1 }
\t}

\tset seen {
\t\ttype ipv4_addr
\t\tflags dynamic,timeout
\t\telements = { 192.0.2.7 timeout 1m expires 50s,
\t\t\t     192.0.2.8 timeout 1m expires 50s }
\t\tsize 100
\t}

\tchain input {
\t\ttcp dport 22 accept
\t}
}
"""


def test_what_packets_put_into_a_set_is_no_drift_but_everything_else_is() -> None:
    compared = host.declared_part(LIVE)
    assert "192.0.2.1" in compared
    assert "192.0.2.7" not in compared
    assert "192.0.2.8" not in compared
    assert "size 100" in compared
    assert host.declared_part(LIVE.replace(" dport 22", " dport 23")) != compared
    assert host.declared_part(LIVE.replace("192.0.2.1", "192.0.2.2")) != compared


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.shutil, "which", lambda name: "/usr/sbin/nft")


FIREWALL = {"tables": ["inet a"], "ruleset": "table inet a {}", "opens": []}


@pytest.mark.parametrize(
    ("live", "drift"),
    [(LIVE, 0), (LIVE.replace("22", "23"), 1), ((1, "Error: No such file or directory"), 1), ("", 1)],
)
@pytest.mark.usefixtures("nft")
def test_the_live_ruleset_is_compared(
    monkeypatch: pytest.MonkeyPatch, live: str | tuple[int, str], drift: int
) -> None:
    fake_run(monkeypatch, {"unshare": LIVE, "sh": live})
    assert len(checked(firewall=FIREWALL)) == drift


@pytest.mark.usefixtures("nft")
def test_a_ruleset_that_does_not_load_fails_before_anything_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_run(monkeypatch, {"unshare": (1, "syntax error, unexpected newline")})
    drift = host.Drift()
    with pytest.raises(host.HostError, match="nothing was changed: syntax error, unexpected newline"):
        host.check_firewall(FIREWALL, "/nonexistent", drift)


@pytest.mark.usefixtures("nft")
def test_a_ruleset_that_nobody_proved_is_drift_though_it_is_the_declared_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_run(monkeypatch, {"unshare": LIVE, "sh": LIVE})
    (tmp_path / "former.nft").touch()
    found = checked(firewall=FIREWALL, state_directory=str(tmp_path))
    assert found == [("firewall", "trial", "not proven", "proven")]


def test_a_host_without_nft_is_drift_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.shutil, "which", lambda name: None)
    assert checked(firewall=FIREWALL) == [("firewall", "ruleset", "nft is not installed", "as declared")]


# --- the module as a program ----------------------------------------------------------------------


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(host.HostError, match="no-such-program is not installed on this host"):
        host.run(["no-such-program"])


def test_the_module_imports_nothing_of_ansible() -> None:
    source = (HOUSE / "library/host_state.py").read_text()
    assert "import ansible" not in source
    assert "from ansible" not in source
