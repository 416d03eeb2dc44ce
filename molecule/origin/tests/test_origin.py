"""An origin: what it made of a folder of packages and of an index, and what keeps it fresh."""

import json
import posixpath
import re

import pytest

SERVED = "/srv/mirror/served"


def page(host, project):
    return json.loads(host.file(f"{SERVED}/simple/{project}/index.v1_json").content_string)


def location(project, file):
    """As a client resolves the URL: by its text, not by where links lead."""
    return posixpath.normpath(f"{SERVED}/simple/{project}/{file['url'].split('#')[0]}")


def sync(host):
    host.check_output("systemctl start mirror-sync.service")


def test_the_folders_packages_are_served_whole(host):
    for project, versions in {"alpha": ["1.0", "1.1"], "beta-two": ["2.0"], "gamma": ["3.0"]}.items():
        files = page(host, project)["files"]
        module = project.replace("-", "_")
        assert [file["filename"] for file in files] == [
            f"{module}-{version}-py3-none-any.whl" for version in versions
        ]
        for file in files:
            path = location(project, file)
            assert host.check_output("sha256sum < %s", path).split()[0] == file["hashes"]["sha256"]
            assert host.check_output("stat --dereference -c %%s %s", path) == str(file["size"])
            metadata = host.file(f"{path}.metadata").content_string
            assert f"Name: {project}\n" in metadata


def test_the_indexs_project_is_served_with_the_newest_release_only(host):
    files = page(host, "six")["files"]
    versions = {re.match(r"six-([0-9.]+?)(-py|\.tar)", file["filename"])[1] for file in files}
    assert len(versions) == 1
    for file in files:
        path = location("six", file)
        assert host.check_output("sha256sum < %s", path).split()[0] == file["hashes"]["sha256"]


def test_it_is_a_valid_upstream_for_bandersnatch(host):
    root = json.loads(host.file(f"{SERVED}/simple/index.v1_json").content_string)
    serials = {project["name"]: project["_last-serial"] for project in root["projects"]}
    assert serials.keys() == {"alpha", "beta-two", "gamma", "six"}
    for project, serial in serials.items():
        document = json.loads(host.file(f"{SERVED}/pypi/{project}/json").content_string)
        assert document["last_serial"] == serial
        assert f"/s-{serial}-" in host.check_output("realpath %s", f"{SERVED}/simple/{project}")


def test_it_says_what_it_is(host):
    status = json.loads(host.file(f"{SERVED}/mirror.json").content_string)
    assert (status["mode"], status["projects"], status["set_aside"]) == ("origin", 4, [])
    assert status["name"] == host.backend.host
    assert re.fullmatch(r"\d{8}T\d\d:\d\d:\d\d\n", host.file(f"{SERVED}/last-modified").content_string)


def test_everybody_may_read_what_is_served_and_only_it(host):
    nobody = "runuser -u nobody --"
    assert host.run(f"{nobody} cat {SERVED}/simple/alpha/index.html").succeeded
    assert host.run(f"{nobody} ls /srv/mirror/fetched").failed
    assert host.run(f"{nobody} cat /etc/mirrorfleet/mirror.json").failed
    assert host.check_output(f"find {SERVED} /srv/mirror/fetched ! -user mirror | head") == ""
    assert host.check_output(f"find {SERVED} -perm /022 ! -type l | head") == ""
    assert host.run("ls /opt/bandersnatch").failed  # it needs none


def test_it_looks_at_the_index_twice_an_hour_at_a_moment_of_its_own(scenario, host):
    assert (
        host.check_output("systemctl is-active mirror-sync.timer; systemctl is-enabled mirror-sync.timer")
        == "active\nenabled"
    )
    calendars = [
        each.shell.check_output("systemctl show --property TimersCalendar mirror-sync.timer")
        for each in scenario.hosts.values()
    ]
    assert len(set(calendars)) == len(calendars)
    assert all(re.search(r"OnCalendar=\*-\*-\* \*:\d+/30:\d+ ", calendar) for calendar in calendars)


def test_a_package_comes_and_goes(host):
    before = json.loads(host.file(f"{SERVED}/mirror.json").content_string)["serial"]
    sync(host)
    assert (
        json.loads(host.file(f"{SERVED}/mirror.json").content_string)["serial"] == before
    )  # nothing changed
    host.check_output(
        "cp -p /srv/packages/gamma/gamma-3.0-py3-none-any.whl /srv/packages/gamma/gamma-3.1-py3-none-any.whl"
    )
    sync(host)
    assert len(page(host, "gamma")["files"]) == 2
    assert json.loads(host.file(f"{SERVED}/mirror.json").content_string)["serial"] > before
    host.check_output("rm /srv/packages/gamma/gamma-3.1-py3-none-any.whl")
    sync(host)
    assert len(page(host, "gamma")["files"]) == 1


@pytest.fixture(scope="session")
def repaired(scenario):
    for host in scenario.hosts.values():
        host.shell.check_output(
            "systemctl disable --quiet --now mirror-sync.timer; chmod 0755 /srv/mirror/fetched;"
            "echo '{}' >/etc/mirrorfleet/mirror.json; chmod 0644 /etc/mirrorfleet/mirror.json"
        )
    scenario.converge()


def test_a_tampered_origin_is_repaired(repaired, host, scenario):
    test_it_looks_at_the_index_twice_an_hour_at_a_moment_of_its_own(scenario, host)
    test_everybody_may_read_what_is_served_and_only_it(host)
    sync(host)
    test_it_says_what_it_is(host)
