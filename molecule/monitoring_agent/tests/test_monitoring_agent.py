"""What a monitor is told by a mirror, over the network, compared with what is there; and who else is told."""

import re

import pytest

FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"


@pytest.fixture
def metrics(me, scenario):
    """A function that asks as a monitor would, and returns the samples by name and labels."""

    def ask(address=me.ipv4):
        text = scenario.hosts["debian-13"].shell.check_output(
            "python3 -c %s %s", FETCH, f"http://{address}:9100/metrics"
        )
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    return ask


def number(samples, name):
    return float(samples[f"mirrorfleet_{name}"])


def packages(host):
    sizes = host.check_output("find /srv/mirror/served/packages -name '*.whl' -printf '%s\\n'").split()
    return len(sizes), sum(map(int, sizes))


def test_only_the_monitor_is_answered(me, scenario, open_ports):
    assert open_ports(me, (9100,), scenario.hosts["debian-13"]) == {9100}
    assert open_ports(me, (9100,)) == set()
    if me.name != "debian-12":
        assert open_ports(me, (9100,), scenario.hosts["debian-12"]) == set()


def test_the_mirrors_own_metrics_are_right(host, metrics):
    samples = metrics()
    files, size = packages(host)
    assert (files, number(samples, "files"), number(samples, "bytes")) == (4, files, size)
    assert number(samples, "projects") == 3
    assert number(samples, "serial") == number(samples, "upstream_serial") > 0
    assert not [one for one in samples if re.match("mirrorfleet_(stuck|late)_projects", one)]
    assert number(samples, "last_run_success") == 1
    now = float(host.check_output("date +%s"))
    success = number(samples, "last_success_timestamp_seconds")
    assert success <= now
    assert abs(now - success - number(samples, "lag_seconds")) < 150  # the metrics are written each minute
    (info,) = [sample for sample in samples if sample.startswith("mirrorfleet_build_info")]
    assert 'version="0.1.0"' in info and 'mode="origin"' in info
    free = float(samples['mirrorfleet_free_bytes{path="/srv/mirror/served"}'])
    assert 0 < free <= float(host.check_output("df --output=size --block-size=1 /srv | tail -1"))


def test_the_end_of_the_certificate_that_is_served_is_told(host, metrics):
    """A server that goes on with what it loaded; the file is another one meanwhile."""
    server = "openssl s_server -accept 443 -quiet -www -cert /run/shown.pem -key /run/shown.pem"
    host.check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=shown"
        f" -keyout /run/shown.pem -out /run/shown.crt 2>&1; cat /run/shown.crt >>/run/shown.pem;"
        f" systemd-run --quiet --collect --unit shown {server}; sleep 1; systemctl start mirror-metrics.service"
    )
    end = host.check_output(
        'date --date "$(openssl x509 -noout -enddate -in /run/shown.crt | cut -d= -f2)" +%s'
    )
    try:
        assert number(metrics(), "certificate_expiry_timestamp_seconds") == float(end)
    finally:
        host.check_output("systemctl stop shown.service; systemctl start mirror-metrics.service")
    assert "mirrorfleet_certificate_expiry_timestamp_seconds" not in metrics()


def test_the_hosts_own_metrics_are_there_by_ipv6_too(me, metrics):
    samples = metrics(f"[{me.ipv6}]")
    assert any(sample.startswith("node_filesystem_avail_bytes") for sample in samples)
    assert samples["node_textfile_scrape_error"] == "0"


def test_the_exporter_listens_where_monitors_reach_it_and_nowhere_else(me, host):
    listening = {line.split()[3] for line in host.check_output("ss -Htln 'sport = 9100'").splitlines()}
    assert listening == {f"{me.ipv4}:9100", f"[{me.ipv6}]:9100"}


def test_the_confined_exporter_reads_what_it_read_before(metrics):
    samples = metrics()
    for name in (
        "cpu",
        "diskstats",
        "filesystem",
        "loadavg",
        "meminfo",
        "netclass",
        "netdev",
        "stat",
        "textfile",
        "timex",
    ):
        assert samples[f'node_scrape_collector_success{{collector="{name}"}}'] == "1", name
    assert "node_timex_sync_status" in samples


def test_metrics_are_written_each_minute_by_a_confined_unit(host, confined):
    for unit in ("mirror-metrics.timer", "prometheus-node-exporter.service"):
        assert (
            host.check_output(f"systemctl is-active {unit}; systemctl is-enabled {unit}") == "active\nenabled"
        )
    assert (
        host.check_output("systemctl show --property Unit --value mirror-metrics.timer")
        == "mirror-metrics.service"
    )
    assert "*-*-* *:*:00" in host.check_output(
        "systemctl show --property TimersCalendar mirror-metrics.timer"
    )
    file = host.file("/var/lib/prometheus/node-exporter/mirrorfleet.prom")
    assert (file.user, file.mode) == ("mirror", 0o644)
    unit = "mirror-metrics.service"
    assert (
        confined(
            unit,
            "id -un; touch /var/lib/prometheus/node-exporter/x && rm /var/lib/prometheus/node-exporter/x",
        ).stdout
        == "mirror\n"
    )
    # What the user mirror may do, and the unit may not.
    for attempt in ("touch /srv/mirror/served/x", "grep 'NoNewPrivs:.*0' /proc/self/status"):
        assert host.run("runuser -u mirror -- sh -c %s", attempt).succeeded, attempt
        assert confined(unit, attempt).failed, attempt
    host.check_output("rm /srv/mirror/served/x")


def test_node_exporter_runs_as_nobody_special(host):
    (process,) = host.process.filter(comm="prometheus-node")
    assert process.user == "prometheus"


def test_a_change_is_told_at_once_and_a_lost_file_comes_back(host, metrics):
    before = metrics()
    host.check_output(
        "cp -r /srv/packages/gamma /srv/packages/delta && cd /srv/packages/delta && mv gamma-3.0-py3-none-any.whl"
        " delta-3.0-py3-none-any.whl && systemctl start mirror-sync.service"
    )
    after = metrics()
    assert number(after, "projects") == number(before, "projects") + 1
    assert number(after, "serial") > number(before, "serial")
    host.check_output("rm -r /srv/packages/delta && systemctl start mirror-sync.service")
    assert number(metrics(), "projects") == number(before, "projects")
    # What the timer starts each minute brings a lost file back.
    host.check_output(
        "rm /var/lib/prometheus/node-exporter/mirrorfleet.prom && systemctl start mirror-metrics.service"
    )
    assert number(metrics(), "projects") == number(before, "projects")


@pytest.fixture(scope="session")
def repaired(scenario):
    for host in scenario.hosts.values():
        host.shell.check_output(
            "systemctl disable --quiet --now mirror-metrics.timer prometheus-node-exporter.service;"
            "sed -i s/node-exporter/elsewhere/ /etc/default/prometheus-node-exporter;"
            "sed -i s/ProtectSystem=strict/ProtectSystem=false/ /etc/systemd/system/mirror-metrics.service;"
            "chmod 0700 /var/lib/prometheus/node-exporter"
        )
    scenario.converge()


def test_a_tampered_agent_is_repaired(repaired, host, metrics, confined):
    test_metrics_are_written_each_minute_by_a_confined_unit(host, confined)
    assert number(metrics(), "files") == 4
    arguments = host.check_output(
        "tr '\\0' ' ' </proc/$(systemctl show --property MainPID --value prometheus-node-exporter)/cmdline"
    )
    assert re.search(r"--collector.textfile.directory=/var/lib/prometheus/node-exporter\b", arguments)
