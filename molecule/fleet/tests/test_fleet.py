"""What a coordinator does with a fleet, in the order of the file: use, extend, damage, update, converge.

Run by molecule's verify step after provision.yml has run twice (the second time without a change). Each test leaves
the fleet as the next one expects it.
"""

import json
import random
import re
import subprocess
import time
from datetime import datetime

import pytest
from coordinator import (
    A_PERSONS,
    CA,
    INVENTORY,
    ROOT,
    Client,
    OtherControlNode,
    add_host,
    add_mirror,
    copy_locks,
    demo,
    edited,
    far_away,
    full_disk,
    make_lived_in,
    nginx_patched,
    on,
    pip_in_a_loop,
    playbook,
    power,
    release,
    status_page,
    touched,
)
from playwright.sync_api import sync_playwright

MIRRORS = ["https://mirror1.fleet.test", "https://mirror2.fleet.test"]
# A second-tier mirror and a cache beside them.
ALL = [*MIRRORS, "https://mirror4.fleet.test", "https://mirror5.fleet.test"]
MIRROR3 = "https://mirror3.fleet.test"  # joins later
INDEX = "https://pypi.fleet.test"  # the redirector's, for the whole fleet
OTHERS_THAN_MIRROR3 = ("mirror1", "mirror2", "mirror4", "mirror5", "origin")


def indexes(*urls: str) -> list[str]:
    return [f"{url}/simple/" for url in sorted(urls)]


JSON, HTML = "application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html"
VERSIONS = INVENTORY / "fleet.yml"


@pytest.fixture(scope="module")
def client():
    return Client(on("client"))


def test_the_hosts_differ_as_the_worlds_do(client):
    """What the inventory says of them is so; that all are listed is what counts, and is asked below."""
    ids = {on(name).check_output("cat /etc/machine-id") for name in ("mirror1", "mirror4")}
    assert len(ids) == 1, "cloned from one image"
    assert on("mirror2").run("command -v sudo").rc != 0
    made = on("mirror5").run("python3 -c 'import socket; socket.socket(socket.AF_INET6)'")
    assert "Address family not supported by protocol" in made.stderr
    for kind, public in (("ahostsv4", "10.89.99.104"), ("ahostsv6", "fd00:89:99::104")):
        assert client.run(f"getent {kind} mirror4.fleet.test").split()[0] == public
        assert public not in on("mirror4").check_output("ip -oneline address")
        # It takes from mirror1 by rsync, which sees it come from there.
        assert public in on("mirror1").check_output("cat /var/lib/mirrorfleet-names/rsync*.conf")
    told = on("mirror1").check_output(
        "systemctl start mirrorfleet-names && cat /var/lib/prometheus/node-exporter/mirrorfleet-names.prom"
    )
    assert 'mirrorfleet_name_failed_runs{name="mirror4-public.fleet.test"} 0' in told


def test_a_second_demo_changes_nothing_and_says_what_there_is():
    playbook("demo").ok()  # what the first one did after provision.yml, which has run once
    run = demo("up").ok()
    assert set(run.changed.values()) == {0}, run.drift
    steps = re.findall(r"==> (\d)/4 (\w+): ", run.output)
    assert steps == [("1", "hosts"), ("2", "provision"), ("3", "publish"), ("4", "use")]
    summary = run.output.partition("The fleet runs.")[2]
    for url in ALL:
        kind = "a cache" if url == ALL[-1] else r"serial \d+"
        assert re.search(rf"{url}/simple/  {kind}  \w+  listed", summary), summary
        assert re.search(rf"six from {url}/simple/: pip: 1\.\S+, uv: 1\.", summary)
    # It ends with one URL, for which the bytes come from one of them.
    assert re.search(rf"One URL for all of it, .*: {INDEX}/simple/", summary), summary
    assert re.search(r"six from it: pip: 1\.\S+, uv: 1\.", summary), summary
    assert re.search(r"hashes from the redirector, the file from mirror\d this time", summary), summary
    assert re.findall(r"^  (\w+) +\d+ s   changed: (\d+)", summary, re.MULTILINE) == [
        (step, "0") for _, step in steps
    ]
    assert "Where to look next:" in summary
    assert summary.splitlines()[-1] == f"  SANDBOX_NAME=fleet make -sC {ROOT} demo-page"


def test_the_line_at_the_demo_s_end_shows_the_status_page_to_a_browser_of_this_machine(tmp_path):
    # What a person has opened by the line; here it is only told which page to open.
    with status_page(browser=tmp_path / "browser") as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--disable-gpu"])
        page = chromium.new_page()
        failed = []
        page.on("response", lambda answer: answer.ok or failed.append(f"{answer.status} {answer.url}"))
        page.on("console", lambda message: failed.append(message.text))
        page.goto(url)
        assert page.locator("h1").inner_text() == "Local fleet: mirrors"
        assert page.locator("tbody th").all_inner_texts() == ["mirror1", "mirror2", "mirror4", "mirror5"]
        page.get_by_role("link", name="mirror1").first.click()
        assert "mirror1" in page.locator("h1").inner_text()
        assert failed == []
        chromium.close()


def test_a_demo_that_fails_says_which_step_why_and_what_to_do():
    with edited(INVENTORY / "mirrors/mirror1.yml", "https://mirror1.", "https://nowhere."):
        run = demo("up")
    assert run.code != 0
    assert re.search(r"mirror1: .*nowhere\.fleet\.test", run.output)
    assert "Nothing was changed" in run.output
    assert "Step 2 (provision) failed" in run.output
    assert (
        "The reason is above and in build/log/demo-fleet-provision.log. See docs/provision.md" in run.output
    )
    assert "3/4" not in run.output


def test_the_list_holds_all_mirrors(client):
    assert client.listed() == indexes(*ALL)


@pytest.mark.parametrize("url", [*ALL, INDEX])
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


@pytest.mark.parametrize("url", ALL)
def test_what_is_not_meant_for_everybody_is_refused_from_outside(client, url):
    name = url.removeprefix("https://")
    ssh = 2222 if name.startswith("mirror4.") else 22  # where its server listens, and nowhere else
    # mirror1 offers rsync to mirror4, and to nobody else.
    for port in {9100, 873, 111, 22, 2222} - {ssh}:
        assert client.host.run(f"timeout 3 bash -c '</dev/tcp/{name}/{port}'").rc != 0
    for port in (ssh, 80, 443):
        assert client.host.run(f"timeout 3 bash -c '</dev/tcp/{name}/{port}'").rc == 0


def test_check_mode_reports_no_change_and_no_error():
    run = playbook("site", "--check", "--diff").ok()
    assert set(run.changed.values()) == {0}, run.drift


def test_too_little_disk_is_told_before_anything_is_changed():
    paths = add_mirror("mirror9", 19, disk="300m")
    try:
        playbook("sandbox").ok()
        run = playbook("provision", "--limit", "mirror9")
        assert run.code != 0
        assert "mirror9: disk at /srv/mirror has" in run.output
        assert "Nothing was changed" in run.output
        assert run.changed == {"mirror9": 0}
    finally:
        for path in paths:
            path.unlink()


@pytest.fixture(scope="module")
def mirror3_as_found(as_found):
    """A host that somebody lives on, and how it is before anything of ours is there."""
    add_mirror("mirror3", 13)
    playbook("sandbox").ok()
    make_lived_in("mirror3")
    return as_found(on("mirror3"))


def test_what_a_host_does_beside_is_asked_for_before_anything_is_changed(mirror3_as_found, as_found):
    run = playbook("provision", "--limit", "mirror3")
    assert run.code != 0
    assert re.search(r"mirror3: mirror_open_ports does not say .*: 8080 \(python3, process \d+\)", run.output)
    assert (
        "mirror_open_ports: [8080] leaves them open, mirror_other_ports: close closes the others"
        in run.output
    )
    assert "mirror3: mirror_other_firewall is missing" in run.output and "inet filter input" in run.output
    assert as_found(on("mirror3")) == mirror3_as_found
    with (INVENTORY / "mirrors/mirror3.yml").open("a") as record:
        record.write("mirror_open_ports: [8080]\nmirror_other_firewall: replace\n")


def test_check_mode_on_a_bare_host(mirror3_as_found, as_found):
    run = playbook("provision", "--limit", "mirror3", "--check").ok()
    assert run.changed["mirror3"] > 0
    assert as_found(on("mirror3")) == mirror3_as_found


def test_one_file_and_one_command_add_a_mirror_whatever_stops_them(client, differences):
    """The command that is not stopped is another person's, whose control node has the newest ansible-core."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    moments = [chance.uniform(8, 40), chance.uniform(8, 40)]
    print(f"seed {seed}: killed after {moments} seconds")
    before = touched(*OTHERS_THAN_MIRROR3)
    for moment in moments:
        playbook("provision", "--limit", "mirror3", kill_after=moment)
    other = OtherControlNode()
    newest = re.search(r"^ansible-core==(\S+)", (ROOT / "requirements/newest-playbooks.txt").read_text())[1]
    assert f"core {newest}]" in other.run("mirrorfleet/.venv/bin/ansible --version", A_PERSONS).output
    run = other.playbook("provision", "--limit", "mirror3").ok()
    assert set(run.changed) == {"mirror3"}
    for name, after in touched(*OTHERS_THAN_MIRROR3).items():
        strange = differences(before[name], after)
        assert not strange, f"{name} was touched:\n" + "\n".join(strange)
    assert client.listed() == indexes(*ALL, MIRROR3)
    assert playbook("provision", "--limit", "mirror3").ok().changed == {"mirror3": 0}
    assert client.status("http://mirror3.fleet.test:8080/") == 200, "its operator's own service was closed"
    reboots = on("mirror3").check_output("apt-config dump Unattended-Upgrade::Automatic-Reboot")
    assert reboots == 'Unattended-Upgrade::Automatic-Reboot "false";'


def test_a_name_that_does_not_lead_to_the_host_is_told_unless_names_are_not_to_be_checked():
    with edited(
        INVENTORY / "mirrors/mirror1.yml", "mirror_url: https://mirror1.", "mirror_url: https://nowhere."
    ):
        run = playbook("preflight", "--limit", "mirror1")
        assert run.code != 0
        assert re.search(r"mirror1: .*nowhere\.fleet\.test", run.output), run.output[-3000:]
        playbook("preflight", "--limit", "mirror1", "-e", "fleet_check_names=false").ok()


def test_a_wrong_record_stops_its_own_mirror_and_nothing_else(client):
    """It is named at the start and at the end of every run, is listed as invalid, and keeps running."""
    with edited(INVENTORY / "mirrors/mirror2.yml", "mirror_bandwidth: 200", "mirror_bandwidth: fast"):
        run = playbook("publish").ok()
        told = "mirror2 (mirrors/mirror2.yml:5): mirror_bandwidth is text ('fast')"
        assert told in run.output.partition("PLAY [")[0] and told in run.output.partition("PLAY RECAP")[2]
        assert client.listed() == indexes(MIRRORS[0], MIRROR3, *ALL[2:])
        (invalid,) = client.document()["invalid"]
        assert (invalid["name"], invalid["reason"]) == ("mirror2", "its record is not valid")
        assert client.status(f"{MIRRORS[1]}/simple/six/") == 200
        assert playbook("provision", "--limit", "mirror1").ok().changed == {"mirror1": 0}
        assert playbook("provision", "--limit", "mirror2").code != 0
    playbook("publish").ok()
    client.until(lambda: f"{MIRRORS[1]}/simple/" in client.listed())


def test_a_mirror_that_dies_leaves_the_list_and_comes_back(client):
    mirror = on("mirror2")
    assert mirror.run("systemctl stop nginx").rc == 0
    try:
        # Seen this moment, in the words in which the list says it after some rounds.
        assert re.search(
            r"mirror2: connection over ipv4: connection refused", playbook("publish").ok().output
        )
        client.until(lambda: f"{MIRRORS[1]}/simple/" not in client.listed())
        assert "connection over ipv4: connection refused" in client.entry("mirror2")["reason"]
    finally:
        assert mirror.run("systemctl start nginx").rc == 0
    told = playbook("publish").ok().output
    assert re.search(r"^  Seen from redirector this moment: .*\bmirror2\b.*: well$", told, re.MULTILINE)
    client.until(lambda: f"{MIRRORS[1]}/simple/" in client.listed())


def test_a_mirror_that_dies_gets_no_clients_from_the_one_index_within_seconds(client):
    """By the real prober, and from file to file by the real redirector; long before it leaves the list."""
    path = next(
        path for path in (f"/packages/{n}/x.whl" for n in range(500)) if client.routed(path)[0] == "mirror2"
    )
    mirror = on("mirror2")
    assert mirror.run("systemctl stop nginx").rc == 0
    try:
        begun = time.monotonic()
        client.until(lambda: "mirror2" not in client.routed(path), 60)
        print(f"dead to unrouted: {time.monotonic() - begun:.1f} s")
    finally:
        assert mirror.run("systemctl start nginx").rc == 0
    client.until(lambda: client.routed(path)[0] == "mirror2")
    client.until(lambda: client.listed() == indexes(*ALL, MIRROR3))


def test_the_status_of_the_fleet_is_one_table_in_which_a_dead_host_is_a_row(client, tmp_path):
    path, names = tmp_path / "status.json", {"mirror1", "mirror2", "mirror3", "mirror4", "mirror5"}
    run = playbook("status", "-e", f"status_json={path}").ok()
    assert set(run.changed.values()) == {0}
    document = json.loads(path.read_text())
    rows = {row["name"]: row for row in document["hosts"]}
    assert rows.keys() == {*names, "origin", "redirector"}
    assert {name for name, row in rows.items() if row["listed"]} == names
    assert (document["listed"], document["redirector"], document["monitor"]) == (
        5,
        "redirector",
        "redirector",
    )
    assert rows["mirror1"]["versions"].keys() == {"mirrorfleet", "bandersnatch", "nginx"}
    assert rows["mirror1"]["versions"]["bandersnatch"] == "8.2.0"
    assert {row["nginx"] for row in rows.values()} == {"running"}
    assert all(row["certificate_expires"] and row["disk"]["free"] for row in rows.values())
    assert all(rows[name]["last_sync"] for name in ("origin", *names - {"mirror5"}))
    for check in ([], ["--check"]):
        with edited(INVENTORY / "host_vars/mirror2.yml", "sandbox_host:", "ansible_port: 1\nsandbox_host:"):
            run = playbook("status", *check, "-e", f"status_json={path}").ok()
        assert set(run.changed.values()) == {0} and "unreachable=1" not in run.output
        first = json.loads(path.read_text())["hosts"][0]
        assert (first["name"], first["ssh"]["answers"], first["listed"]) == ("mirror2", False, True)
        (told,) = [line for line in run.output.splitlines() if "no answer by SSH" in line]
        assert re.fullmatch(
            r"    no answer by SSH since .*: Connection (refused|timed out); "
            r"redirector saw it serve well \d+ (s|min) ago",
            told,
        ), told


def test_a_mirror_that_fails_its_gate_is_told_in_the_monitors_words_and_stays_as_it_is_on_the_list(client):
    mirror = on("mirror3")
    pages = "$(readlink -f /srv/mirror/served/pages/six/cur)/simple"
    spoil = f"cd {pages} && rm index.html.gz && sed -i 's/sha256=[0-9a-f]*/sha256=0/' index.html"
    assert mirror.run(f"cp -a {pages} /root/pages && {spoil}").rc == 0
    try:
        run = playbook("provision", "--limit", "mirror3")
        assert run.code != 0
        assert re.search(r"mirror3, seen from redirector, fails:\s+ipv4 html-page: ", run.output), run.output[
            -3000:
        ]
    finally:
        assert mirror.run(f"cp -a /root/pages/. {pages}/ && rm -r /root/pages").rc == 0
    assert playbook("provision", "--limit", "mirror3").ok().changed == {"mirror3": 0}


def test_without_a_monitor_that_answers_nothing_is_changed(client):
    monitor = on("redirector")
    assert monitor.run("mv /opt/mirrorfleet/current /opt/mirrorfleet/away").rc == 0
    try:
        with edited(VERSIONS, 'debian-13: "8.2.0"', 'debian-13: "8.1.0"'):
            run = playbook("update")
        assert run.code != 0 and set(run.changed.values()) <= {0}
        assert "No monitor can say how a mirror is seen from outside" in run.output
        assert re.search(r"redirector: .*No such file", run.output), run.output[-3000:]
    finally:
        assert monitor.run("mv /opt/mirrorfleet/away /opt/mirrorfleet/current").rc == 0
    assert client.listed() == indexes(*ALL, MIRROR3)


def test_a_tampered_host_is_found_and_repaired_far_away(client):
    with far_away("mirror1"):
        seconds = client.run("curl -sSo /dev/null -w '%{time_connect}' https://mirror1.fleet.test/")
        assert float(seconds) >= 0.2
        mirror = on("mirror1")
        site = "/etc/nginx/nginx.conf"
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
        # One that its timer started meanwhile had no bandersnatch, and is refused until the next.
        assert mirror.run("systemctl start mirror-sync.service").rc == 0


AGES = """
: >/tmp/ages
while true; do
    for name in mirror1 mirror2; do
        curl -sSI --max-time 5 https://$name.fleet.test/simple/six/ | sed -n 's/.*max-age=\\([0-9]*\\).*/\\1/p'
    done | xargs >>/tmp/ages
    sleep 0.5
done
"""


def test_a_changed_setting_goes_to_one_mirror_after_the_other_and_a_broken_one_is_taken_back(
    client, differences
):
    """By provision.yml, as it is run for everything else. The good one stays for the tests that follow."""
    settings = INVENTORY / "group_vars/mirrors.yml"
    both = ("--limit", "mirror1,mirror2")
    before = touched("mirror1", "mirror2")
    settings.write_text("nginx_certificate: /etc/mirrorfleet/tls/nowhere.pem\n")
    with pip_in_a_loop(client):
        run = playbook("provision", *both)
    assert run.code != 0
    assert 'mirror1 could not be updated: task "Test the configuration of nginx" said' in run.output.replace(
        '\\"', '"'
    )
    assert "and configuration and on the list" in " ".join(run.output.split()), run.output[-3000:]
    assert client.listed() == indexes(*ALL, MIRROR3)
    after = touched("mirror1", "mirror2")
    assert not differences(before["mirror2"], after["mirror2"]), "a further mirror was touched"
    strange = [
        line
        for line in differences(before["mirror1"], after["mirror1"])
        if "/etc/mirrorfleet/former" not in line
    ]
    assert not strange, "\n".join(strange)

    settings.write_text("web_server_page_max_age: 61\n")
    client.run(f"cat >/tmp/ages.sh <<'END'\n{AGES}\nEND")
    client.run("systemd-run --quiet --unit ages --collect sh /tmp/ages.sh")
    with pip_in_a_loop(client):
        playbook("provision", *both).ok()
    client.run("systemctl stop ages")
    seen = [line for line in client.run("cat /tmp/ages").splitlines() if len(line.split()) == 2]
    seen = [line for number, line in enumerate(seen) if seen[number - 1] != line or number == 0]
    assert seen == ["60 60", "61 60", "61 61"], "not the canary first, and then the other"
    assert client.listed() == indexes(*ALL, MIRROR3)


def test_a_release_that_cannot_run_stops_at_the_canary_and_is_taken_back(client, tmp_path):
    wheels = release(tmp_path, "9.9.9", {"sync/run.py": 'raise ImportError("this release cannot run")\n'})
    with edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "9.9.9"'), pip_in_a_loop(client):
        run = playbook("update", "-e", f"python_program_wheels={wheels}")
    assert run.code != 0
    assert "mirror1 could not be updated" in run.output
    assert "this release cannot run" in run.output
    assert "back on its former version" in run.output
    canary = on("mirror1")
    assert canary.file("/opt/mirrorfleet/9.9.9/bin/mirrorfleet").exists, "it never ran"
    assert canary.file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
    assert client.listed() == indexes(*ALL, MIRROR3), "it is listed again"
    for name in ("mirror2", "mirror3"):
        other = on(name)
        assert not other.file("/opt/mirrorfleet/9.9.9").exists, "a further mirror was touched"


def test_a_release_that_syncs_and_breaks_what_is_served_is_stopped_by_the_gate_and_taken_back(
    client, tmp_path, differences
):
    text = (ROOT / "src/mirrorfleet/served/status.py").read_text()
    assert '_STAMP = "%Y%m%dT%H:%M:%S"' in text
    broken = {"served/status.py": text.replace('_STAMP = "%Y%m%dT%H:%M:%S"', '_STAMP = "%d.%m.%Y"')}
    wheels = release(tmp_path, "9.9.8", broken)
    before = touched("mirror2", "mirror3")
    with edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "9.9.8"'), pip_in_a_loop(client):
        run = playbook("update", "-e", f"python_program_wheels={wheels}")
    assert run.code != 0
    assert re.search(
        r"mirror1, seen from redirector, fails:\s+ipv4 last-modified: /last-modified says", run.output
    ), run.output[-3000:]
    assert 'mirror1 could not be updated: task "Every check passes" said' in run.output.replace('\\"', '"')
    assert "back on its former version" in run.output
    canary = on("mirror1")
    assert canary.file("/opt/mirrorfleet/9.9.8/bin/mirrorfleet").exists, "it never ran"
    assert canary.file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
    assert re.fullmatch(r"\d{8}T\d\d:\d\d:\d\d", client.run(f"curl -sSf {MIRRORS[0]}/last-modified").strip())
    assert client.listed() == indexes(*ALL, MIRROR3), "it is listed again"
    for name, after in touched("mirror2", "mirror3").items():
        assert not differences(before[name], after), f"{name} was touched"


def silences(mirror: str) -> list[dict]:
    """Of the alerts that are about a mirror, which its monitor keeps quiet now."""
    query = f"amtool --alertmanager.url=http://127.0.0.1:9093 silence query --output=json mirror={mirror}"
    return json.loads(on("redirector").check_output(query))


DRAIN = 2  # fleet_drain_seconds of the local fleet


def test_a_killed_update_leaves_its_mirror_off_the_list_and_the_next_one_completes_it(client):
    canary = on("mirror1")
    # Killed as soon as the mirror is held, as it happens when a terminal is closed.
    with edited(VERSIONS, 'debian-13: "8.2.0"', 'debian-13: "8.1.0"'):
        playbook("update", kill_when=lambda: client.entry("mirror1")["reason"].startswith("held:"))
    playbook("publish").ok()
    assert client.entry("mirror1")["reason"].startswith("held:"), "nobody looked at it, and it is back"
    # Its operator is told again soon after, and not only when the lock of the run has ended.
    (silence,) = silences("mirror1")
    assert re.match("being updated from", silence["comment"])
    begins, ends = (datetime.fromisoformat(silence[key]) for key in ("startsAt", "endsAt"))
    assert (ends - begins).total_seconds() == pytest.approx(600 + DRAIN, abs=60)
    told = playbook("status", "-e", "status_only=problems").ok().output
    assert re.search(
        r"^mirror1 +held .*\n    held by \w+ on \S+ since 20.* UTC: being updated", told, re.MULTILINE
    )
    assert re.search(
        r"^    in the middle of an update by \w+ on \S+ since 20.* UTC, at its step ", told, re.MULTILINE
    )
    playbook("update").ok()
    assert client.entry("mirror1")["listed"]
    assert canary.file("/opt/bandersnatch/current").linked_to == "/opt/bandersnatch/8.2.0"
    assert [one for one in silences("mirror1") if one["id"] != silence["id"]] == []


def test_a_host_that_does_not_answer_does_not_hide_the_other_problems():
    # One address that nobody has, and one that holds a host whose key nobody has vouched for.
    lost, stranger = add_mirror("mirror8", 18), add_mirror("mirror9", 19, disk="300m")
    for (_, variables), address in ((lost, 18), (stranger, 19)):
        variables.write_text(
            f"{variables.read_text()}ansible_host: 10.89.99.{address}\nansible_user: fleet\n"
        )
    try:
        run = playbook("preflight", "--limit", "mirror8,mirror9,mirror1")
    finally:
        for path in (*lost, *stranger):
            path.unlink()
    assert run.code != 0
    assert "Nothing was changed. To be mended first:" in run.output
    told = [line for line in run.output.splitlines() if re.match(r" *mirror[0-9]: SSH and Python", line)]
    assert {re.search(r"mirror[0-9]", line)[0] for line in told} == {"mirror8", "mirror9"}
    # It is told by the task, and once more by the run's last lines.
    unknown = [line for line in told if "Host key verification failed" in line]
    assert unknown and all("say yes: ssh mirror9" in line for line in unknown)


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
    assert client.listed() == indexes(*ALL, MIRROR3)


def test_a_host_whose_disk_is_full_keeps_what_it_runs(client, tmp_path):
    wheels = release(tmp_path, "0.1.9")
    with (
        full_disk("mirror1"),
        edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "0.1.9"'),
        pip_in_a_loop(client),
    ):
        run = playbook("update", "--limit", "mirror1", "-e", f"python_program_wheels={wheels}")
        assert on("mirror1").file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
        assert client.listed() == indexes(*ALL, MIRROR3)
    assert run.code != 0
    told = " ".join(run.output.partition("PLAY RECAP")[2].split())
    assert re.search(r"mirror1 could not be updated: task .* said: .*No space left on device", told), told
    assert "at its step update" in told and "back on its former version" in told
    assert re.search(r"Served meanwhile by mirrors \(1 host\): \d+ requests, 0 failed", told), told


def test_a_release_that_breaks_once_it_is_among_clients_is_seen_in_the_soak_and_taken_back(client, tmp_path):
    text = (ROOT / "src/mirrorfleet/served/status.py").read_text()
    stamp, canary = '_STAMP = "%Y%m%dT%H:%M:%S"', on("mirror1")
    assert stamp in text
    # It passes its gate, and fails where it has served for a while: no test of a moment sees it.
    late = """_NOTE = Path("/etc/mirrorfleet/update.json")
_STAMP = "%d.%m.%Y" if _NOTE.exists() and '"soak"' in _NOTE.read_text() else "%Y%m%dT%H:%M:%S"
"""
    wheels = release(tmp_path, "9.9.7", {"served/status.py": text.replace(stamp, late)})
    with edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "9.9.7"'), pip_in_a_loop(client):
        run = playbook(
            "update", "--limit", "mirror1,mirror2", "-e", f"python_program_wheels={wheels}",
            "-e", "fleet_update_soak_seconds=20",
            # Its timer would, within minutes.
            kill_when=lambda: canary.run("grep '\"soak\"' /etc/mirrorfleet/update.json").rc == 0,
            then=lambda: canary.check_output("systemctl start mirror-sync.service"),
        )  # fmt: skip
    assert run.code != 0
    told = " ".join(run.output.partition("PLAY RECAP")[2].split())
    assert re.search(r"mirror1 could not be updated: .* last-modified( .*)?: /last-modified says", told), told
    assert "at its step soak" in told and "back on its former version" in told and "on the list" in told
    assert canary.file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
    assert not on("mirror2").file("/opt/mirrorfleet/9.9.7").exists, "a further mirror was touched"
    assert client.listed() == indexes(*ALL, MIRROR3)
    assert re.fullmatch(r"\d{8}T\d\d:\d\d:\d\d", client.run(f"curl -sSf {MIRRORS[0]}/last-modified").strip())


def test_a_mirror_whose_nginx_has_a_broken_configuration_stays_off_the_list_until_it_is_mended(
    client, tmp_path
):
    """There is no version to go back to that would take it; what nginx runs on with serves who still comes."""
    wheels, mirror = release(tmp_path, "0.1.9"), on("mirror1")
    broken = "/etc/nginx/sites-enabled/wiki"  # its operator's own
    assert mirror.run(f"echo 'listen_on 8081;' >{broken}").rc == 0
    with pip_in_a_loop(client):
        with edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "0.1.9"'):
            run = playbook("update", "--limit", "mirror1,mirror2", "-e", f"python_program_wheels={wheels}")
        told = " ".join(run.output.partition("PLAY RECAP")[2].split())
        assert run.code != 0
        assert re.search(r'mirror1 could not be updated: .*unknown directive "listen_on" in \S+wiki:1', told)
        assert "It stays off the list until this playbook succeeds for it. No further wave starts." in told
        assert mirror.file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
        assert client.listed() == indexes(*ALL[1:], MIRROR3)
        assert client.status(f"{MIRRORS[0]}/simple/six/") == 200
        # Mended, and the pin with it: the same command completes it.
        assert mirror.run(f"rm {broken}").rc == 0
        playbook("update", "--limit", "mirror1").ok()
    assert client.listed() == indexes(*ALL, MIRROR3)


def test_a_mirror_that_dies_in_the_middle_stays_off_the_list_until_it_is_there_again(client, tmp_path):
    wheels = release(tmp_path, "0.1.9")
    with pip_in_a_loop(client):
        with edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "0.1.9"'):
            run = playbook(
                "update", "--limit", "mirror3", "-e", f"python_program_wheels={wheels}",
                # Once no client goes by a list from before that.
                kill_when=lambda: (
                    client.entry("mirror3")["reason"].startswith("held:")
                    and MIRROR3 not in client.run("cat /tmp/loop.list")
                ),
                then=lambda: power("mirror3", "kill"),
            )  # fmt: skip
        told = " ".join(run.output.partition("PLAY RECAP")[2].split())
        assert run.code != 0
        assert "mirror3 could not be updated" in told and "It stays off the list until" in told, told
        assert "Next, once it does: ansible-playbook playbooks/update.yml --limit mirror3" in told
        assert client.listed() == indexes(*ALL)
        power("mirror3", "start")
        client.until(lambda: client.status(f"{MIRROR3}/simple/six/") == 200)
        playbook("update", "--limit", "mirror3").ok()
    assert on("mirror3").file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
    assert client.listed() == indexes(*ALL, MIRROR3)


def test_a_second_redirector_publishes_the_same_list(client):
    """The first one's index is a cache; this one's has a tree of its own, which the origin lets it take."""
    line = next(line for line in VERSIONS.read_text().splitlines() if line.startswith("  redirector: "))
    second = re.sub(r"redirector(?!_)", "redirector2", line)  # its keys are as they were
    tree = ", redirector_mode: rsync, redirector_upstream: origin}"
    VERSIONS.write_text(VERSIONS.read_text().replace(line, f"{line}\n{second.replace('}', tree)}"))
    add_host("redirector2", 31, aliases=["pypi"])
    playbook("sandbox").ok()
    run = playbook("provision", "--limit", "redirector2,origin").ok()
    assert set(run.changed) == {"redirector2", "origin"}
    playbook("publish").ok()
    assert client.listed(redirector="redirector2") == client.listed() != []


def test_a_redirector_with_a_tree_serves_it_while_nobody_else_answers(client):
    """What every other host has is out of its reach, and of its index nothing has ever been asked for."""
    host, ask = on("redirector2"), "curl -sSf --resolve pypi.fleet.test:443:10.89.99.31"
    page = json.loads(client.run(f"{ask} -H 'Accept: {JSON}' {INDEX}/simple/idna/"))
    host.check_output(
        "nft 'table inet alone { chain out { type filter hook output priority -300; tcp dport {443, 873} reject; }; }'"
    )
    try:
        for file in page["files"]:
            path, digest = file["url"].removeprefix("../.."), file["hashes"]["sha256"]
            assert client.run(f"{ask} {INDEX}{path} | sha256sum").split()[0] == digest
        told = json.loads(client.run(f"{ask} {INDEX}{path}?trace=1"))
        assert (told["mirror"], told["tree_age"] >= 0, len(told["candidates"])) == ("", True, 4)
    finally:
        host.check_output("nft delete table inet alone")


STOPPED = ("systemctl stop nginx", "systemctl start nginx", 3)
# Each client waits for an address that says nothing, and goes on with the next.
SILENT = (
    "nft 'table inet silent { chain in { type filter hook input priority -300; tcp dport {80, 443} drop; }; }'",
    "nft delete table inet silent",
    1,
)


@pytest.mark.parametrize(
    ("gone", "how"),
    [("redirector", STOPPED), ("redirector2", STOPPED), ("redirector", SILENT), ("redirector2", SILENT)],
    ids=["redirector", "redirector2", "redirector swallows", "redirector2 swallows"],
)
def test_clients_bear_the_loss_of_one_of_two_redirectors(client, gone, how):
    """The index's name leads to both."""
    lost, found, times = how
    assert {"10.89.99.30", "10.89.99.31"} <= set(client.run("getent ahostsv4 pypi.fleet.test").split())
    assert on(gone).run(lost).rc == 0
    try:
        for _ in range(times):  # whichever address comes first
            client.run(
                f"d=$(mktemp -d) && python3 -m pip --isolated install --quiet --no-cache-dir --cert {CA}"
                f" --target $d/pip --index-url {INDEX}/simple/ six && SSL_CERT_FILE={CA} /opt/uv/current/bin/uv pip"
                f" install --quiet --no-cache --target $d/uv --index-url {INDEX}/simple/ six"
                " && ls $d/pip/six.py $d/uv/six.py"
            )
    finally:
        assert on(gone).run(found).rc == 0


BROKEN_SYNC = """
mkdir -p /run/systemd/system/mirror-sync.service.d
printf '[Service]\\nExecStartPre=/bin/sh -c "echo what nobody foresaw; false"\\n' \
    >/run/systemd/system/mirror-sync.service.d/broken.conf
systemctl daemon-reload
"""


def test_good_pins_roll_through_without_a_failed_request_past_a_mirror_that_cannot_follow(client, tmp_path):
    """All three pins at once; the wave's second mirror fails on the way there and on the way back."""
    lame = on("mirror3")
    assert lame.run(BROKEN_SYNC).rc == 0
    wheels = release(tmp_path, "0.1.1")
    both = ("redirector", "redirector2")
    with (
        edited(VERSIONS, 'debian-13: "8.2.0"', 'debian-13: "8.1.0"'),
        edited(VERSIONS, 'mirrorfleet: "0.1.0"', 'mirrorfleet: "0.1.1"'),
        edited(VERSIONS, 'debian-13: "1.26.*"', 'debian-13: "1.26.*+fleet1"'),
        nginx_patched("mirror1", "mirror3", "origin", *both) as nginx,
        pip_in_a_loop(client),
    ):
        run = playbook("update", "-e", f"python_program_wheels={wheels}")
        assert run.code != 0
        assert "mirror3 could not be updated" in run.output
        assert re.search(r"Going back to .* failed too: .*It stays off the list", run.output, re.DOTALL)
        assert re.search(r"^ +mirror3: what nobody foresaw$", run.output, re.MULTILINE), "no log of the sync"
        for redirector in both:
            assert client.listed(redirector) == indexes(*ALL)
        assert client.entry("mirror3")["reason"].startswith("held:")
        assert lame.file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
        assert lame.file("/opt/bandersnatch/current").linked_to == "/opt/bandersnatch/8.2.0"
        assert lame.package("nginx").version == nginx["mirror3"]
        for name in ("mirror1", "mirror2"):
            document = json.loads(client.run(f"curl -sSf https://{name}.fleet.test/mirror.json"))
            assert document["versions"]["mirrorfleet"] == "0.1.1"
        assert document["versions"]["bandersnatch"] == "6.8.0"  # mirror2 is a Debian 12

        # The cause is mended, and the same command completes what is left.
        assert lame.run("rm -r /run/systemd/system/mirror-sync.service.d && systemctl daemon-reload").rc == 0
        run = playbook("update", "-e", f"python_program_wheels={wheels}").ok()
        # What the first run did not come to follows, too, the fleet's own hosts last.
        assert {name for name, changes in run.changed.items() if changes} == {
            "mirror3",
            "mirror4",
            "mirror5",
            "origin",
            *both,
        }, run.drift
        order = re.findall(r"TASK \[Note that it is looked at\].*\nincluded: .* for (\w+)", run.output)
        for name in ("origin", *both):
            assert on(name).file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.1"
            assert on(name).package("nginx").version == nginx[name] + "+fleet1"
        assert order[-3:] == ["origin", *both], order
        # A redirector's tree is synced by the new programs, too.
        document = json.loads(on("redirector2").check_output("cat /srv/mirror/served/mirror.json"))
        assert (document["mode"], document["versions"]["mirrorfleet"]) == ("rsync", "0.1.1")
        assert re.search(r'^ +mirror3: .*"good": true', run.output, re.MULTILINE), "no word of the sync"
        for name in ("mirror1", "mirror3"):
            document = json.loads(client.run(f"curl -sSf https://{name}.fleet.test/mirror.json"))
            assert document["versions"]["bandersnatch"] == "8.1.0"
            assert on(name).package("nginx").version == nginx[name] + "+fleet1"
        for redirector in both:
            assert client.listed(redirector) == indexes(*ALL, MIRROR3)
        # Nothing left to update: nothing is touched.
        run = playbook("update", "-e", f"python_program_wheels={wheels}").ok()
        assert set(run.changed.values()) == {0}, run.drift
        # And back, of a mirror and of one of the fleet's own.
        run = playbook(
            "rollback", "--limit", "mirror5,redirector2", "-e", f"python_program_wheels={wheels}"
        ).ok()
        assert {name for name, changes in run.changed.items() if changes} == {"mirror5", "redirector2"}, (
            run.drift
        )
        for name in ("mirror5", "redirector2"):
            assert on(name).file("/opt/mirrorfleet/current").linked_to == "/opt/mirrorfleet/0.1.0"
        assert on("redirector2").package("nginx").version == nginx["redirector2"]
        assert "fleet.yml pins what was taken back" in run.output
        for redirector in both:
            assert client.listed(redirector) == indexes(*ALL, MIRROR3)


def test_a_mirror_that_still_serves_is_not_given_back():
    for name, why in (
        ("mirror3", "mirror3: mirror_state is not retired"),
        ("nowhere", "nowhere is no mirror of"),
    ):
        run = playbook("retire", "-e", f"retire={name}")
        assert run.code != 0
        assert why in run.output and "Nothing was changed" in run.output


def test_a_host_that_is_given_back_is_as_it_was_found(client, mirror3_as_found, as_found, differences):
    with edited(INVENTORY / "mirrors/mirror3.yml", "mirror_state: active", "mirror_state: retired"):
        run = playbook("retire", "-e", "retire=mirror3", "-e", "retire_data=remove").ok()
        assert "mirror3 is as it was found" in run.output
        assert MIRROR3 not in "".join(client.listed())
        strange = differences(mirror3_as_found, as_found(on("mirror3")))
        assert not strange, "\n".join(strange)
        assert client.status("http://mirror3.fleet.test:8080/") == 200
        again = playbook("retire", "-e", "retire=mirror3").ok()
        assert again.changed["mirror3"] == 0, again.drift


def test_demo_down_leaves_nothing():
    demo("down").ok()
    assert not (ROOT / "build/fleet").exists()
    left = subprocess.run(
        ["podman", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    )
    assert not re.search("^fleet-", left.stdout, re.MULTILINE)
    assert demo("down").ok().changed == {"localhost": 0}
