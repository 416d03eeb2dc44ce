"""A monitor that measures a real site of the fleet, audits it, and remembers."""

import email
import email.policy
import json
import re
import shlex
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

STATE = "/var/lib/mirrorfleet/monitor"


def health(host):
    return json.loads(host.file(f"{STATE}/health.json").content_string)


def until(wanted, seconds=60):
    end = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < end
        time.sleep(0.5)
    return found


GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"


def prometheus(host, path):
    """What it answers on its own host; nobody else can ask."""
    said = host.check_output("python3 -c %s %s", GET, f"http://127.0.0.1:9090/api/v1/{path}")
    return json.loads(said)["data"]


def query(host, text):
    found = prometheus(host, f"query?query={urllib.parse.quote(text)}")["result"]
    return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in found}


@pytest.mark.parametrize(
    "unit",
    [
        "mirrorfleet-probe.service",
        "mirrorfleet-audit.timer",
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-blackbox-exporter",
    ],
)
def test_everything_runs_and_is_enabled(host, unit):
    service = host.service(unit)
    assert service.is_running and service.is_enabled


def test_the_site_is_found_well_in_both_families(host):
    one = until(lambda: health(host)["mirrors"].get("one"))
    assert (one["problem"], one["families"]) == ("", {"ipv4": "", "ipv6": ""})
    assert one["good"] > 0
    assert one["lag"] == 0
    assert health(host)["reference"]["problem"] == ""


def test_an_audit_of_our_own_web_server_passes_every_rule(host):
    """The service writes where it may; the prober tells the list of it."""
    assert host.run("systemctl start mirrorfleet-audit.service").rc == 0
    report = json.loads(host.file(f"{STATE}/audits/one.json").content_string)
    assert [one for one in report["rules"] if one["passed"] is False] == []
    assert (report["verdict"], report["problem"]) == ("passed", "")
    assert report["integrity"]["files"] > 0
    until(lambda: health(host)["mirrors"]["one"].get("audit", {}).get("passed_at"))


FLEET = Path(__file__).parents[1] / "inventory/fleet.yml"
HOUSE = Path(__file__).parents[3]


def received(host, kind):
    """What the relay and the webhook have got, in order."""
    script = (
        "import json, pathlib; print(json.dumps([json.loads(path.read_text())"
        f" for path in sorted(pathlib.Path('/var/lib/sink').glob('{kind}-*'))]))"
    )
    return json.loads(host.check_output("python3 -c %s", script))


def mails(host, subject, to="volunteer@fleet.test"):
    found = []
    for one in received(host, "mail"):
        mail = email.message_from_string(one["mail"], policy=email.policy.default)
        assert one["tls"] and one["user"] == "fleet"
        assert mail.get_content_type() == "text/plain" or [
            part.get_content_type() for part in mail.iter_parts()
        ] == ["text/plain"]
        if mail["Subject"] == subject and one["to"] == [to]:
            found.append(mail)
    return found


def text(mail):
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def alerts(host, *options):
    command = "amtool --alertmanager.url=http://127.0.0.1:9093 alert query --output=json "
    return json.loads(host.check_output(command + " ".join(options)))


@pytest.fixture
def as_alertmanager(host):
    """Runs a command as its process would run: Debian's unit, and ours over it."""

    def run(command):
        unit = host.check_output("systemctl cat prometheus-alertmanager.service")
        settings = re.findall(
            r"^(?!Exec|Restart|EnvironmentFile|#)\w+=.*", unit.partition("[Service]")[2], re.MULTILINE
        )
        kept = [one for one in settings if not one.startswith(("WantedBy", "TimeoutStop", "SendSIGKILL"))]
        options = " ".join(f"--property {shlex.quote(one)}" for one in kept)
        return host.run(
            f"systemd-run --quiet --wait --pipe --collect {options} /bin/sh -c {shlex.quote(command)}"
        )

    return run


@dataclass
class Story:
    """A mirror that fails in a maintenance window, past its end, and is well again; seen by both monitors."""

    played: dict = field(default_factory=dict)
    heard: dict = field(default_factory=dict)  # by host the mails that came too early
    dead: dict = field(default_factory=dict)  # by host what health.json said


@pytest.fixture(scope="session")
def story(scenario):
    told, monitors = Story(), [scenario.hosts[name].shell for name in ("debian-13", "debian-12")]

    def maintain(moment, *options):
        told.played[moment] = scenario.play(
            "-i", FLEET, "--limit", "one", *options, playbook=HOUSE / "playbooks/maintenance.yml"
        )
        assert told.played[moment].code == 0, told.played[moment].said

    for host in monitors:
        until(lambda host=host: query(host, "mirrorfleet_probe_good_rounds > 2"))
    maintain("begun", "-e", "hours=1", "-e", "reason='new disks'")
    for (
        host
    ) in monitors:  # nothing listens there; the exporter's resolver remembers /etc/hosts for five seconds
        host.check_output(
            "systemctl stop prometheus-blackbox-exporter"
            " && printf '127.0.0.1 origin.fleet.test\\n::1 origin.fleet.test\\n' >>/etc/hosts"
            " && systemctl start prometheus-blackbox-exporter"
        )
    try:
        for host in monitors:
            one = until(lambda host=host: (now := health(host)["mirrors"]["one"])["bad"] >= 3 and now, 30)
            told.dead[host.backend.host] = one
            until(
                lambda host=host: [one for one in alerts(host, "--silenced") if one["status"]["silencedBy"]]
            )
        time.sleep(4)  # longer than the wait and the interval of a group
        for host in monitors:
            told.heard[host.backend.host] = received(host, "mail") + received(host, "hook")
        maintain("extended", "-e", "hours=2", "-e", "reason='more disks'")
        for host in monitors:
            silences = "amtool --alertmanager.url=http://127.0.0.1:9093 silence query --output=json"
            told.played[host.backend.host] = json.loads(host.check_output(silences))
        maintain("ended", "-e", "end=true")
        for host in monitors:
            until(lambda host=host: mails(host, FAILS), 30)
    finally:
        for host in monitors:  # in place: the file is mounted
            host.check_output("grep -v origin.fleet.test /etc/hosts >/run/hosts; cat /run/hosts >/etc/hosts")
    for host in monitors:
        until(lambda host=host: mails(host, RESOLVED), 30)
        until(lambda host=host: health(host)["mirrors"]["one"]["good"] >= 3, 30)
    return told


FAILS = "[Test fleet] one: MirrorFails"
RESOLVED = "[Test fleet] resolved: one: MirrorFails"


def test_a_site_that_dies_is_noticed(host, story):
    problem = story.dead[host.backend.host]["problem"]
    assert problem == "connection over ipv4: connection refused (and 1 more)"


def test_in_a_maintenance_window_nobody_is_told(host, story):
    assert story.heard[host.backend.host] == []
    (silence,) = story.played[host.backend.host]
    assert (silence["comment"], silence["status"]["state"]) == ("more disks", "active")
    assert {one["name"]: one["value"] for one in silence["matchers"]} == {
        "mirror": "one",
        "severity": "operator",
    }
    assert "changed=2" in story.played["extended"].said


def test_the_operator_is_mailed_with_the_evidence(host, story):
    mail, *others = mails(host, FAILS)
    assert others == []
    assert (mail["From"], mail["To"], mail["Reply-To"]) == (
        "fleet@fleet.test",
        "volunteer@fleet.test",
        "c@fleet.test",
    )
    said = text(mail)
    for pattern in (
        r"MirrorFails: one failed \d+ rounds of probes in a row",
        r"since +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC",
        r"last good +20\d\d-",
        rf"seen from +{host.backend.host}\n",
        r"over ipv4, connection: connection refused",
        r"over ipv6, connection: connection refused",
        r"It leaves the list, for the address families that fail, at about 20\d\d-.*UTC\. It returns by itself, after"
        r" 5 good rounds in a row",
    ):
        assert re.search(pattern, said), (pattern, said)
    # What it saw before is not told.
    assert "reaches the mirror" not in said


def test_the_operator_is_told_when_it_is_over(host, story):
    (mail,) = mails(host, RESOLVED)
    assert "MirrorFails: resolved at 20" in text(mail)


def test_the_webhook_is_told_the_same(host, story):
    hooks = received(host, "hook")
    assert [one["alert"]["status"] for one in hooks] == ["firing", "resolved"]
    assert {one["path"] for one in hooks} == {"/hook/S3cret-Path"}
    (alert,) = hooks[0]["alert"]["alerts"]
    assert (alert["labels"]["mirror"], alert["labels"]["monitor"]) == ("one", host.backend.host)
    assert "connection refused" in alert["annotations"]["found"]


def test_the_coordinator_is_told_of_what_concerns_the_fleet(host):
    labels = f"alertname=MonitorCutOff severity=coordinator 'fleet=Test fleet' monitor={host.backend.host}"
    command = "amtool --alertmanager.url=http://127.0.0.1:9093 alert add %s --annotation=summary='cut off'"
    assert host.run(command % labels).rc == 0
    (mail,) = until(lambda: mails(host, "[Test fleet] MonitorCutOff", to="c@fleet.test"))
    assert "MonitorCutOff: cut off" in text(mail)
    assert not mails(host, "[Test fleet] MonitorCutOff")


def test_a_window_of_the_inventory_is_kept_and_wrong_bytes_are_told_all_the_same(host):
    add = "amtool --alertmanager.url=http://127.0.0.1:9093 alert add 'fleet=Test fleet' mirror=two monitor=m "
    assert host.run(add + "alertname=MirrorFails severity=operator").rc == 0
    time.sleep(3)  # longer than the wait of a group
    assert host.run(add + "alertname=MirrorTampered severity=coordinator copy=operator").rc == 0
    until(lambda: mails(host, "[Test fleet] two: MirrorTampered", to="other@fleet.test"))
    until(lambda: mails(host, "[Test fleet] two: MirrorTampered", to="c@fleet.test"))
    assert "MirrorFails" in {one["labels"]["alertname"] for one in alerts(host)}
    assert not mails(host, "[Test fleet] two: MirrorFails", to="other@fleet.test")


def test_what_rules_and_dashboard_ask_for_is_there(host):
    """Of the exporters that are not ours; the unit tests know what ours tell."""
    files = HOUSE / "roles/monitoring_server/files"
    text = (files / "dashboard.json").read_text() + (files / "mirrorfleet.rules.yml").read_text()
    asked = set(re.findall(r"\b(?:node|alertmanager)_\w+|(?<!fleet_)\bprobe_\w+", text)) - {"node_exporter"}
    assert len(asked) > 6
    until(lambda: asked <= set(prometheus(host, "label/__name__/values")), 90)
    # What a mirror tells is the mirror's own.
    assert query(host, 'node_uname_info{mirror="one"}')


def test_secrets_are_where_nobody_else_reads_them(host, story, as_alertmanager):
    for path in ("alertmanager-relay-password", "alertmanager.yml"):
        kept = host.file(f"/etc/prometheus/{path}")
        assert (kept.user, kept.group, kept.mode) == ("root", "fleet-alerts", 0o640)
        assert as_alertmanager(f"cat /etc/prometheus/{path}").rc == 0
        for user in ("prometheus", "fleet-monitor", "nobody"):
            assert host.run(f"runuser -u {user} -- cat /etc/prometheus/{path}").rc != 0
    logged = host.check_output("journalctl --no-pager --output=cat") + "".join(
        one.said for one in story.played.values() if hasattr(one, "said")
    )
    assert "prometheus-alertmanager" in logged or "Alertmanager" in logged
    for secret in ("Kept-Secret-93f1", "S3cret-Path"):
        assert secret not in logged


def test_alertmanager_is_confined(as_alertmanager):
    assert as_alertmanager("id -un").stdout.strip() == "fleet-alerts"
    assert as_alertmanager("touch /var/lib/fleet-alerts/tried && rm /var/lib/fleet-alerts/tried").rc == 0
    for place in ("/etc/prometheus/x", f"{STATE}/x", "/var/lib/prometheus/x", "/home/x"):
        assert as_alertmanager(f"touch {place}").rc != 0


def test_a_person_can_have_a_mirror_audited_now(host, scenario, story):
    """Whatever the timer does meanwhile; words of the report reach the screen."""
    if host.backend.host == "debian-12":
        return  # the playbook asks both monitors
    outcome = scenario.play("-i", FLEET, playbook=HOUSE / "playbooks/audit.yml")
    assert outcome.code == 0, outcome.said
    said = " ".join(outcome.said.split())
    for monitor in ("debian-13", "debian-12"):
        assert re.search(
            rf"passed, from {monitor} at 20\d\d-.* files \(\d+ bytes\) hashed, 0 of them wrong", said
        )
    assert outcome.changed == {"one": 0}
    origin = scenario.hosts["origin"].shell
    origin.check_output("systemctl stop nginx")
    try:
        outcome = scenario.play("-i", FLEET, playbook=HOUSE / "playbooks/audit.yml")
    finally:
        origin.check_output("systemctl start nginx")
    assert outcome.code != 0
    assert "one did not pass: debian-13 did not audit it" in " ".join(outcome.said.split())


def test_prometheus_asks_the_prober_and_the_site_itself(host):
    until(lambda: query(host, 'up{job="mirrorfleet"} == 1'), 150)
    asked = until(lambda: query(host, 'probe_success{job="mirror"}'), 150)
    assert ("mirror", "one") in dict.fromkeys(pair for labels in asked for pair in labels)
    # Each address family by a probe of its own.
    for family in ("ipv4", "ipv6"):
        until(
            lambda family=family: query(
                host, f'probe_success{{job="mirror",mirror="one",family="{family}"}} == 1'
            ),
            150,
        )
    given = yaml.safe_load(host.file("/etc/prometheus/mirrorfleet.rules.yml").content_string)
    loaded = prometheus(host, "rules")["groups"]
    assert sorted(one["name"] for one in loaded) == sorted(one["name"] for one in given["groups"]) != []


def test_nothing_listens_but_on_loopback(host):
    listening = {line.split()[3] for line in host.check_output("ss -Htln").splitlines()}
    public = {one for one in listening if not one.startswith(("127.", "[::1]"))}
    assert {one.rsplit(":", 1)[1] for one in public} <= {"22"}


def test_the_prober_is_confined(confined):
    unit = "mirrorfleet-probe.service"
    assert confined(unit, "id -un").stdout.strip() == "fleet-monitor"
    assert confined(unit, f"touch {STATE}/tried && rm {STATE}/tried").rc == 0
    for place in ("/etc/mirrorfleet/x", "/opt/mirrorfleet/x", "/srv/x", "/home/x"):
        assert confined(unit, f"touch {place}").rc != 0
