"""What a coordinator does with a fleet, in the order of the file: use, extend, damage, update, converge.

Run by molecule's verify step after provision.yml has run twice (the second time without a change). Each test leaves
the fleet as the next one expects it.
"""

import json
import random
import re
import shutil
import subprocess
import sys

import pytest
from coordinator import (
    CA,
    INVENTORY,
    ROOT,
    Client,
    add_mirror,
    copy_locks,
    edited,
    on,
    pip_in_a_loop,
    playbook,
)

MIRRORS = ["https://mirror1.fleet.test", "https://mirror2.fleet.test"]
JSON, HTML = "application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html"
VERSIONS = INVENTORY / "group_vars/all/versions.yml"


@pytest.fixture(scope="module")
def client():
    return Client(on("client"))


def test_pip_and_uv_install_from_every_listed_mirror_as_in_the_demo():
    run = playbook("demo").ok()
    assert run.output.count("pip: 1.") == run.output.count("uv: 1.") > 0


def test_the_list_holds_both_mirrors(client):
    assert client.listed() == [f"{url}/simple/" for url in MIRRORS]


@pytest.mark.parametrize("url", MIRRORS)
@pytest.mark.parametrize("form", ["json", "html"])
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_real_clients_install_over_verified_tls(client, url, form, tool):
    # Both clients ask for JSON first; a page given to --find-links with ?format= is HTML whatever they ask for.
    source = (
        f"--index-url {url}/simple/"
        if form == "json"
        else f"--no-index --find-links '{url}/simple/six/?format={HTML}'"
    )
    install = {
        "pip": f"python3 -m pip --isolated install --quiet --no-cache-dir --cert {CA} --target $d {source} six",
        "uv": f"SSL_CERT_FILE={CA} /opt/uv/current/bin/uv pip install --quiet --no-cache --target $d {source} six",
    }[tool]
    out = client.run(
        f"d=$(mktemp -d) && {install} && PYTHONPATH=$d python3 -c 'import six; print(six.__file__)' && rm -r $d"
    )
    assert out.strip().endswith("six.py")


@pytest.mark.parametrize("url", MIRRORS)
def test_pages_come_in_the_form_that_was_asked_for(client, url):
    for accept, kind in ((JSON, JSON), (HTML, HTML), ("text/html", "text/html"), ("*/*", "text/html")):
        out = client.run(
            f"curl -sS -o /dev/null -w '%{{http_code}} %{{content_type}}' -H 'Accept: {accept}' {url}/simple/six/"
        )
        assert out.split(";")[0] == f"200 {kind}"


@pytest.mark.parametrize("url", MIRRORS)
@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/simple/six/", "-H 'Accept: image/png'", 406),
        ("/simple/no-such-project/", "", 404),
        ("/simple/Six/", "", 301),
        ("/simple/six", "", 301),
        ("/pypi/no-such-project/json", "", 404),
        ("/packages/../../fetched/web/json/six", "--path-as-is", 404),
        ("/packages/%2e%2e/%2e%2e/fetched/", "--path-as-is", 404),
        ("/journal/", "", 404),
        ("/pages/six/cur/pypi/json", "", 404),
        ("/.git/config", "", 404),
        ("/simple/six/", "-X DELETE", 405),
    ],
)
def test_what_is_not_served_gets_its_status(client, url, path, options, status):
    found = client.status(url + path, options)
    assert found == status or (status == 404 and found in (400, 403)), f"{found}"


def test_a_certificate_of_another_authority_is_not_accepted(client):
    done = client.host.run(
        "curl -sS --capath /var/empty --cacert /etc/ssl/certs/ISRG_Root_X1.pem https://mirror1.fleet.test/simple/"
    )
    assert done.rc == 60  # peer certificate cannot be authenticated


@pytest.mark.parametrize("url", MIRRORS)
def test_what_is_not_meant_for_everybody_is_refused_from_outside(client, url):
    name = url.removeprefix("https://")
    for port in (9100, 873, 111):
        assert client.host.run(f"timeout 3 bash -c '</dev/tcp/{name}/{port}'").rc != 0
    for port in (22, 80, 443):
        assert client.host.run(f"timeout 3 bash -c '</dev/tcp/{name}/{port}'").rc == 0


def test_check_mode_reports_no_change_and_no_error():
    run = playbook("site", "--check", "--diff").ok()
    assert set(run.changed.values()) == {0}, run.drift


def test_too_little_disk_is_told_before_anything_is_changed():
    path = add_mirror("mirror9", 19, disk="300m")
    try:
        playbook("sandbox").ok()
        run = playbook("provision", "--limit", "mirror9")
        assert run.code != 0
        assert "mirror9: disk at /srv/mirror has" in run.output
        assert "Nothing was changed" in run.output
        assert run.changed == {"mirror9": 0}
    finally:
        path.unlink()


def test_check_mode_on_a_bare_host():
    add_mirror("mirror3", 13)
    playbook("sandbox").ok()
    run = playbook("provision", "--limit", "mirror3", "--check").ok()
    assert run.changed["mirror3"] > 0


def test_one_file_and_one_command_add_a_mirror_whatever_stops_them(client):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    moments = [chance.uniform(8, 40), chance.uniform(8, 40)]
    print(f"seed {seed}: killed after {moments} seconds")
    for moment in moments:
        playbook("provision", "--limit", "mirror3", kill_after=moment)
    run = playbook("provision", "--limit", "mirror3").ok()
    assert set(run.changed) == {"mirror3"}, "other hosts were touched"
    assert "https://mirror3.fleet.test/simple/" in client.listed()
    assert playbook("provision", "--limit", "mirror3").ok().changed == {"mirror3": 0}


def test_a_mirror_that_dies_leaves_the_list_and_comes_back(client):
    mirror = on("mirror2")
    assert mirror.run("systemctl stop nginx").rc == 0
    try:
        playbook("publish").ok()
        assert f"{MIRRORS[1]}/simple/" not in client.listed()
        assert "refused" in client.entry("mirror2")["reason"]
    finally:
        assert mirror.run("systemctl start nginx").rc == 0
    playbook("publish").ok()
    assert f"{MIRRORS[1]}/simple/" in client.listed()


def test_a_tampered_host_is_found_and_repaired():
    mirror = on("mirror1")
    site = "/etc/nginx/sites-available/mirror"
    # Same size, same time stamp: only a look at the content finds it.
    tamper = f"t=$(stat -c %y {site}); sed -i 's/return 421/return 422/' {site}; touch -d \"$t\" {site}"
    assert mirror.run(tamper).rc == 0
    assert mirror.run("systemctl disable --now mirror-metrics.timer").rc == 0
    assert mirror.run("rm /opt/bandersnatch/current && nft flush ruleset").rc == 0
    run = playbook("provision", "--limit", "mirror1").ok()
    assert run.changed["mirror1"] >= 4
    assert mirror.run("nft list ruleset").stdout.count("dport") > 0
    assert mirror.service("mirror-metrics.timer").is_running
    assert playbook("provision", "--limit", "mirror1").ok().changed == {"mirror1": 0}


def test_a_release_that_cannot_run_stops_at_the_canary_and_is_taken_back(client, tmp_path):
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    package = source / "src/mirrorfleet"
    (package / "__init__.py").write_text('"""A bad release."""\n__version__ = "9.9.9"\n')
    (package / "sync.py").write_text('raise ImportError("this release cannot run")\n')
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            wheels,
            source,
        ],
        check=True,
    )
    with edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "9.9.9"'), pip_in_a_loop(client):
        run = playbook("update", "-e", f"python_program_wheels={wheels}")
    assert run.code != 0
    assert "mirror1 could not be updated" in run.output
    assert "this release cannot run" in run.output
    assert "back on its former version" in run.output
    canary = on("mirror1")
    assert canary.file("/opt/mirrorfleet/9.9.9/bin/mirrorfleet").exists, "it never ran"
    assert canary.file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
    assert len(client.listed()) == 3, "it is listed again"
    for name in ("mirror2", "mirror3"):
        other = on(name)
        assert not other.file("/opt/mirrorfleet/9.9.9").exists, "a further mirror was touched"


def test_a_killed_update_leaves_its_mirror_off_the_list_and_the_next_one_completes_it(client):
    canary = on("mirror1")
    # Killed as soon as the mirror is held, as it happens when a terminal is closed.
    with edited(VERSIONS, 'debian-13: "8.2.0"', 'debian-13: "8.1.0"'):
        playbook("update", kill_when=lambda: client.entry("mirror1")["reason"].startswith("held:"))
    playbook("publish").ok()
    assert client.entry("mirror1")["reason"].startswith("held:"), "nobody looked at it, and it is back"
    playbook("update").ok()
    assert client.entry("mirror1")["listed"]
    assert canary.file("/opt/bandersnatch/current").linked_to == "/opt/bandersnatch/8.2.0"


def test_a_host_that_does_not_answer_does_not_hide_the_other_problems():
    # One address that nobody has, and one that holds a host whose key nobody has vouched for.
    lost, stranger = add_mirror("mirror8", 18), add_mirror("mirror9", 19, disk="300m")
    try:
        run = playbook("preflight", "--limit", "mirror8,mirror9,mirror1")
    finally:
        lost.unlink()
        stranger.unlink()
    assert run.code != 0
    assert "Nothing was changed. To be mended first:" in run.output
    told = [line for line in run.output.splitlines() if re.match(r" *mirror[0-9]: SSH and Python", line)]
    assert {re.search(r"mirror[0-9]", line)[0] for line in told} == {"mirror8", "mirror9"}


def test_a_bad_bandersnatch_pin_is_taken_back(client, tmp_path):
    # A lock that lacks what the release needs: pip refuses it, and the running version is not touched.
    locks = copy_locks(tmp_path / "requirements")
    lock = locks / "bandersnatch-8.1.0-debian-13.txt"
    lock.write_text(re.sub(r"^aiohttp==.*?(?=^\w)", "", lock.read_text(), flags=re.MULTILINE | re.DOTALL))
    with edited(VERSIONS, 'debian-13: "8.2.0"', 'debian-13: "8.1.0"'), pip_in_a_loop(client):
        run = playbook("update", "-e", f"python_program_locks={locks}")
    assert run.code != 0
    assert "mirror1 could not be updated" in run.output
    assert "aiohttp" in run.output
    canary = on("mirror1")
    assert canary.file("/opt/bandersnatch/current").linked_to == "/opt/bandersnatch/8.2.0"
    assert len(client.listed()) == 3


def test_a_good_pin_rolls_through_without_a_failed_request(client):
    with edited(VERSIONS, 'debian-13: "8.2.0"', 'debian-13: "8.1.0"'):
        with pip_in_a_loop(client):
            playbook("update").ok()
        for name in ("mirror1", "mirror3"):
            document = json.loads(client.run(f"curl -sSf https://{name}.fleet.test/mirror.json"))
            assert document["versions"]["bandersnatch"] == "8.1.0"
        assert len(client.listed()) == 3
        # Nothing left to update: nothing is touched.
        assert set(playbook("update").ok().changed.values()) == {0}
