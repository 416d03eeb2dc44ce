"""A monitor that measures a real site of the fleet, audits it, and remembers."""

import json
import time
import urllib.parse

import pytest

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
    ["mirrorfleet-probe.service", "mirrorfleet-audit.timer", "prometheus", "prometheus-blackbox-exporter"],
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


def test_a_site_that_dies_is_noticed_and_its_return_too(host, scenario):
    origin = scenario.hosts["origin"].shell
    assert origin.run("systemctl stop nginx").rc == 0
    try:
        one = until(lambda: (now := health(host)["mirrors"]["one"])["bad"] >= 3 and now, 30)
        assert one["problem"] == "connection over ipv4: connection refused (and 1 more)"
    finally:
        assert origin.run("systemctl start nginx").rc == 0
    until(lambda: health(host)["mirrors"]["one"]["good"] >= 3, 30)


def test_prometheus_asks_the_prober_and_the_site_itself(host):
    until(lambda: query(host, 'up{job="mirrorfleet"} == 1'), 150)
    asked = until(lambda: query(host, 'probe_success{job="mirror"}'), 150)
    assert ("mirror", "one") in dict.fromkeys(pair for labels in asked for pair in labels)
    assert len(prometheus(host, "rules")["groups"]) == 2


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
