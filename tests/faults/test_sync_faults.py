"""A mirror with the real bandersnatch against an upstream that misbehaves in every way we know."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import DEADLINE, Host, Mirror, Origin, Site, wait_for

from mirrorfleet.fetch.bandersnatch import Client, Run

PROJECTS = ["alpha", "beta", "gamma-delta"]


def test_a_mirror_equals_its_upstream_and_feeds_another(
    origin: Origin, mirror: Mirror, serve: Callable[[Path], Site], tmp_path: Path
) -> None:
    summary = mirror.run("sync")
    assert summary["good"]
    assert summary["changed"] == 3
    second = Mirror(tmp_path / "second", serve(mirror.served).url, PROJECTS)
    assert second.run("sync")["changed"] == 3
    for tier in (mirror, second):
        assert tier.names() == origin.names() == PROJECTS
        assert tier.broken() == []
        for page in ("simple/alpha/index.html", "simple/alpha/index.v1_json", "pypi/alpha/json"):
            assert (tier.served / page).read_bytes() == (origin.served / page).read_bytes()
        assert tier.status()["serial"] == origin.status()["serial"] == tier.metric("serial")
    assert mirror.run("sync")["changed"] == 0


def test_bad_projects_are_set_aside_and_the_others_go_on(origin: Origin, site: Site, mirror: Mirror) -> None:
    faults = {
        "corrupt": "corrupt",
        "truncated": "truncate",
        "missing": 404,
        "failing": 500,
        "hanging": "hang",
    }
    bad = sorted(faults)
    mirror.configure(tries_before_set_aside=2)
    mirror.select(["beta", *bad])
    for name in bad:
        origin.release(name, "1.0")
    origin.publish()
    mirror.run("sync")
    for name in ["beta", *bad]:
        origin.release(name, "2.0")
        origin.release(name, "3.0")
    origin.publish()
    site.faults({rf"{name}-3\.0\.tar\.gz$": fault for name, fault in faults.items()})
    summary = mirror.run("sync", expect=1)
    assert sorted(summary["failed"]) == bad
    for name in bad:  # its previous page
        assert sorted(mirror.files(name)) == [f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.tar.gz"]
    assert "beta-3.0.tar.gz" in mirror.files("beta")
    assert mirror.status()["set_aside"] == []
    kinds = {"HTTP error": 1, "connection": 1, "not found": 1, "timeout": 1, "wrong hash": 1}
    assert mirror.reasons() == (summary["late"], summary["set_aside"]) == (kinds, {})
    origin.release("beta", "4.0")
    origin.publish()
    summary = mirror.run("sync")
    assert summary["good"]
    assert "beta-4.0.tar.gz" in mirror.files("beta")
    assert mirror.status()["set_aside"] == bad
    assert mirror.reasons() == (summary["late"], summary["set_aside"]) == ({}, kinds)
    assert "hanging is set aside after 2 tries" in mirror.log
    assert mirror.broken() == []
    site.faults({})
    for name in bad:
        origin.release(name, "4.0")  # a change upstream is a reason to try before the time
    origin.publish()
    mirror.run("sync")
    for name in bad:
        assert f"{name}-3.0.tar.gz" in mirror.files(name)
    assert mirror.status()["set_aside"] == []
    assert mirror.reasons() == ({}, {})
    mirror.run("sync")
    assert mirror.broken() == mirror.leftovers() == []


def test_a_stale_upstream_page_is_not_taken_and_not_called_fresh(
    origin: Origin, site: Site, mirror: Mirror
) -> None:
    mirror.run("sync")
    fresh = (mirror.served / "last-modified").read_text()
    origin.release("alpha", "3.0")
    origin.publish()
    site.faults({"^/(pypi/alpha/json|simple/alpha/)$": "stale"})
    time.sleep(1.1)  # last-modified has a resolution of a second
    mirror.run("sync", expect=1)
    assert (mirror.served / "last-modified").read_text() == fresh
    assert "alpha-3.0.tar.gz" not in mirror.files("alpha")
    site.faults({})
    assert mirror.run("sync")["good"]
    assert "alpha-3.0.tar.gz" in mirror.files("alpha")
    assert (mirror.served / "last-modified").read_text() > fresh


def test_what_upstream_deletes_yanks_and_quarantines_arrives(origin: Origin, mirror: Mirror) -> None:
    mirror.run("sync")
    origin.delete("beta")
    origin.withdraw("alpha", "1.0")
    origin.facts("alpha", yanked={"2.0": 'broken "on" <Windows> & more'})
    origin.facts("gamma-delta", status="quarantined", reason="malware")
    origin.publish()
    assert mirror.run("sync")["removed"] == 1
    assert mirror.names() == ["alpha", "gamma-delta"]
    assert {e["yanked"] for e in mirror.files("alpha").values()} == {'broken "on" <Windows> & more'}
    html = (mirror.served / "simple/alpha/index.html").read_text()
    assert 'data-yanked="broken &quot;on&quot; &lt;Windows&gt; &amp; more"' in html
    assert mirror.page("gamma-delta")["project-status"]["status"] == "quarantined"
    assert not list((mirror.served / "packages").rglob("gamma_delta*"))
    mirror.run("sync")
    assert not list(mirror.root.rglob("beta*"))
    assert not list(mirror.root.rglob("alpha-1.0*"))
    assert mirror.broken() == mirror.leftovers() == []


def test_what_was_fetched_before_a_kill_and_removed_upstream_since_leaves(
    origin: Origin, site: Site, mirror: Mirror
) -> None:
    mirror.run("sync")
    origin.release("alpha", "3.0")
    origin.release("beta", "3.0")
    origin.publish()
    site.faults({r"-3\.0-.*\.whl$": "hang"})
    fetch = mirror.start("sync")
    packages = mirror.fetched / "web/packages"
    wanted = {"alpha-3.0.tar.gz", "beta-3.0.tar.gz"}
    wait_for(lambda: {path.name for path in packages.rglob("*-3.0.tar.gz")} == wanted)
    os.killpg(fetch.pid, signal.SIGKILL)
    fetch.wait()
    site.faults({})
    origin.withdraw("alpha", "3.0")
    origin.delete("beta")
    origin.publish()
    mirror.run("sync")
    mirror.run("sync")
    assert mirror.names() == ["alpha", "gamma-delta"]
    assert mirror.broken() == mirror.leftovers() == []


def test_what_is_removed_upstream_between_two_fetches_of_a_run_leaves(
    origin: Origin, site: Site, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that resumes what was left over fetches twice: the second time upstream is another."""
    mirror.run("sync")
    for name in ("alpha", "beta"):  # bandersnatch notes what is left over when it got through one
        origin.release(name, "3.0")
    origin.publish()
    site.faults({"/pypi/alpha/json": "hang"})
    fetch = mirror.start("sync")
    wait_for((mirror.fetched / "todo").exists)
    os.killpg(fetch.pid, signal.SIGKILL)
    fetch.wait()
    site.faults({})
    fetched, calls = Client.mirror, []

    def twice(client: Client) -> Run:
        calls.append(len(list(mirror.fetched.rglob("alpha-3.0*"))))
        if len(calls) == 2:
            origin.withdraw("alpha", "3.0")
            origin.publish()
        return fetched(client)

    monkeypatch.setattr(Client, "mirror", twice)
    while not calls:  # until bandersnatch, which was killed too, has let go of the lock
        mirror.run("sync", expect=None)
    assert len(calls) == 2
    assert calls[1] > 0
    mirror.run("sync")
    assert "3.0" not in str(mirror.page("alpha"))
    assert mirror.broken() == mirror.leftovers() == []


def test_a_changed_selection_is_applied_to_what_is_there(origin: Origin, mirror: Mirror) -> None:
    mirror.select(["alpha"])
    mirror.run("sync")
    assert mirror.names() == ["alpha"]
    mirror.select(["beta", "gamma-delta"])  # old projects that no change announces
    mirror.run("sync")
    assert mirror.names() == ["beta", "gamma-delta"]
    mirror.run("sync")
    assert mirror.broken() == mirror.leftovers() == []


def simple_page(origin: Origin, name: str, **changes: Any) -> dict[str, str]:
    return root(json.dumps(origin.page(name) | changes))


def test_status_and_provenance_come_from_upstreams_page(origin: Origin, site: Site, mirror: Mirror) -> None:
    url = "https://upstream.test/integrity/alpha"
    files = [entry | {"provenance": url} for entry in origin.page("alpha")["files"]]
    site.faults(
        {
            "^/simple/alpha/$": simple_page(origin, "alpha", files=files),
            "^/simple/beta/$": simple_page(origin, "beta", **{"project-status": {"status": "archived"}}),
            "^/simple/gamma-delta/$": 503,
        }
    )
    assert list(mirror.run("sync", expect=1)["failed"]) == ["gamma-delta"]
    assert {entry["provenance"] for entry in mirror.files("alpha").values()} == {url}
    assert mirror.page("beta")["project-status"]["status"] == "archived"
    archived = {"project-status": {"status": "archived", "reason": "why"}}
    site.faults({"^/simple/gamma-delta/$": simple_page(origin, "gamma-delta", **archived)})
    assert mirror.run("sync")["good"]  # asked again for what could not be asked before
    assert mirror.page("gamma-delta")["project-status"] == archived["project-status"]


def test_a_quarantined_project_without_document_loses_its_files(
    origin: Origin, site: Site, mirror: Mirror
) -> None:
    mirror.run("sync")
    origin.release("alpha", "3.0")
    origin.publish()
    serial = origin.page("alpha")["meta"]
    quarantined = {
        "project-status": {"status": "quarantined", "reason": "malware"},
        "files": [],
        "meta": serial,
    }
    site.faults({"^/simple/alpha/$": simple_page(origin, "alpha", **quarantined), "^/pypi/alpha/json$": 500})
    assert mirror.run("sync")["good"], "in the same run"
    assert mirror.files("alpha") == {}
    assert mirror.page("alpha")["project-status"] == quarantined["project-status"]
    assert not list(mirror.root.rglob("alpha-*.tar.gz"))
    assert mirror.broken() == []


def test_a_cache_is_as_fresh_as_its_upstream_answers(origin: Origin, site: Site, tmp_path: Path) -> None:
    cache = Host(tmp_path / "cache", "cache", upstream=site.url, index_url=f"{site.url}/simple/")
    assert cache.run("sync")["serial"] == origin.status()["serial"] == cache.status()["serial"]
    fresh = cache.status()["last_success"]
    site.faults({"^/mirror.json$": 404})  # an upstream that is no mirror of a fleet, and has no pip
    assert cache.run("sync")["good"]
    site.faults({"": 502})
    cache.run("sync", expect=1)
    assert cache.status()["last_success"] >= fresh
    assert cache.metric("last_run_success") == 0
    assert "upstream does not answer" in cache.log


def root(body: str, kind: str = "application/vnd.pypi.simple.v1+json") -> dict[str, str]:
    return {"body": body, "type": kind}


@pytest.mark.parametrize("document", [404, 410, 200])
def test_a_project_whose_releases_were_all_deleted_is_empty_in_the_same_run(
    site: Site, mirror: Mirror, document: int
) -> None:
    """Its page says so; the document is gone, or still the old one."""
    mirror.run("sync")
    serials = {name: mirror.page(name)["meta"]["_last-serial"] for name in PROJECTS}
    serials["alpha"] = max(serials.values()) + 1
    listed = [{"name": name, "_last-serial": serial} for name, serial in serials.items()]
    page = {"meta": {"api-version": "1.1", "_last-serial": serials["alpha"]}, "name": "alpha", "files": []}
    faults: dict[str, Any] = {
        "^/simple/?$": root(json.dumps({"meta": {}, "projects": listed})),
        "^/simple/alpha/": root(json.dumps(page)),
    }
    if document != 200:
        faults["^/pypi/alpha/json"] = document
    site.faults(faults)
    mirror.run("sync", expect=None)
    assert mirror.page("alpha")["files"] == []
    assert mirror.page("alpha")["meta"]["_last-serial"] == serials["alpha"]
    assert mirror.names() == PROJECTS
    assert mirror.broken() == []
    site.faults({})
    mirror.run("sync", expect=None)


def test_what_an_upstream_loses_of_others_is_none_of_ours(site: Site, mirror: Mirror) -> None:
    """It lost all that this mirror does not select, and one of the three that it does."""
    mirror.run("sync")
    serials = {name: mirror.page(name)["meta"]["_last-serial"] for name in PROJECTS}

    def named(*names: str) -> dict[str, Any]:
        listed = [{"name": name, "_last-serial": serials.get(name, 1)} for name in names]
        return {"^/simple/?$": root(json.dumps({"meta": {}, "projects": listed}))}

    site.faults(named(*PROJECTS, *(f"other{n}" for n in range(20))))
    mirror.run("sync")
    site.faults(named(*PROJECTS[1:]))
    assert mirror.run("sync")["removed"] == 1
    assert mirror.names() == PROJECTS[1:]


def test_what_upstream_lacks_in_every_run_is_believed_in_the_end(site: Site, mirror: Mirror) -> None:
    mirror.run("sync")
    mirror.configure(shrink_believed_after=3600)
    left = {"meta": {}, "projects": [{"name": "alpha", "_last-serial": 1}]}
    site.faults({"^/simple/?$": root(json.dumps(left))})
    mirror.run("sync", expect=4)
    assert "2 of 3 projects would disappear at once (beta, gamma-delta)" in mirror.log
    assert "sync --allow-shrink" in mirror.log
    mirror.configure(shrink_believed_after=0)
    assert mirror.run("sync", expect=None)["removed"] == 2
    assert mirror.names() == ["alpha"]
    assert mirror.broken() == []


def test_an_upstream_root_that_is_no_root_changes_nothing(site: Site, mirror: Mirror) -> None:
    mirror.run("sync")
    before = mirror.status()["last_success"]
    mirror.configure(timeout=1)
    for fault, code, message in (
        (root('{"meta": {}, "projects": []}'), 4, "would disappear"),
        (root('{"meta": {}, "projects": [{"name": "alpha", "_last-serial": 1}]}'), 4, "2 of 3 projects"),
        (root('{"projects": [{"name": "alpha"}]}'), 4, "2 of 3 projects"),
        (root("<html>maintenance</html>", "text/html"), 1, "text/html instead of"),
        (root("{cut"), 1, "not JSON"),
        (root("[" * 100_000), 1, "not JSON"),
        (root("[]"), 1, "not a PEP 691 root"),
        (503, 1, "HTTP 503"),
        ("hang", 1, "imeout"),
        ("truncate", 1, "upstream: "),
        ({"redirect": "/simple/"}, 1, "TooManyRedirects"),
    ):
        site.faults({"^/simple/?$": fault})
        mirror.run("sync", expect=code)
        assert message in mirror.log
        assert mirror.names() == PROJECTS
        assert mirror.broken() == []
        assert mirror.status()["last_success"] == before
        assert mirror.metric("last_run_success") == 0
    site.faults({})
    assert mirror.run("sync")["good"]


def test_an_upstream_that_is_down_changes_nothing(site: Site, mirror: Mirror) -> None:
    mirror.run("sync")
    site.stop()
    mirror.run("sync", expect=1)
    assert "Connect" in mirror.log
    assert mirror.broken() == []


def test_many_failures_at_once_are_upstreams_and_nobodys_own(
    origin: Origin, site: Site, mirror: Mirror
) -> None:
    names = [f"many-{number}" for number in range(12)]
    for name in names:
        origin.release(name, "1.0")
    origin.publish()
    mirror.select(names)
    mirror.configure(workers=1)
    site.faults({"^/packages/": 503})
    summary = mirror.run("sync", expect=1)
    assert summary["failed"] == {}
    assert "upstream's fault" in mirror.log
    assert mirror.reasons() == (summary["late"], {}) == ({"HTTP error": 11, "not asked for": 1}, {})
    site.faults({})
    assert mirror.run("sync")["changed"] == 12
    assert mirror.reasons() == ({}, {})


def test_two_runs_at_once_are_one(site: Site, mirror: Mirror) -> None:
    site.faults({r"\.whl$": "hang"})
    first = mirror.start("sync")
    try:
        wait_for(lambda: any(mirror.fetched.rglob("*.tar.gz")))
        mirror.run("sync", expect=3)
        assert f"another run is at work (process {first.pid})" in mirror.log
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=DEADLINE)
    assert first.returncode == 143
    site.faults({})
    assert mirror.run("sync")["good"]


def test_a_fetcher_that_outlives_its_killed_run_still_holds_the_lock(site: Site, mirror: Mirror) -> None:
    site.faults({r"\.whl$": "hang"})
    first = mirror.start("sync")
    wait_for(lambda: any(mirror.fetched.rglob("*.tar.gz")))
    first.kill()
    first.communicate(timeout=DEADLINE)
    mirror.run("sync", expect=3)
    orphans = subprocess.run(
        ["pgrep", "-f", f"bandersnatch -c {mirror.root}/"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(orphans) == 1
    os.kill(int(orphans[0]), signal.SIGKILL)
    site.faults({})
    wait_for(lambda: mirror.run("sync", expect=None).get("good", False))
    mirror.run("sync")
    assert mirror.broken() == mirror.leftovers() == []


def test_a_run_that_lasts_too_long_is_ended(site: Site, mirror: Mirror) -> None:
    site.faults({r"\.whl$": "hang"})
    mirror.configure(bandersnatch=mirror.document["bandersnatch"] | {"timeout": 1})
    mirror.run("sync", expect=1)
    assert "stopped after 1 seconds" in mirror.log
