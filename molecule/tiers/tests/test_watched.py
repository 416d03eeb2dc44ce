"""Every fault of a mirror that we know, from its first second to the mirror's return, as the published list tells it.

A monitor measures, the redirector lists: nothing here is told to either. The victim is a tier-2: nobody is fed by it.
"""

import email
import email.policy
import json
import re
import time

import pytest

VICTIM = "tier2"
SERVED = "/srv/mirror/served"
SITE = "/etc/nginx/shared/tls.conf"
TLS = "/etc/mirrorfleet/tls"
CA = "/etc/ssl/certs/ca-certificates.crt"
WHEEL = f"$(find {SERVED}/packages -name 'alpha-1.0-*.whl')"
SYNC = "systemctl start mirror-sync.service"
RESTORE = f"cp /root/site {SITE} && systemctl reload nginx"
# Codes, words of the reason; to break; to mend.
OLD = "s-0-0123456789abcdef"  # a snapshot of the page without its newer releases
OLD_PAGE = """
import json, sys
with open(sys.argv[1], "r+") as page:
    document = json.load(page)
    document["files"] = [file for file in document["files"] if "1.0" in file["filename"]]
    page.seek(0); page.truncate(); json.dump(document, page)
"""
FAULTS = {
    "nginx stopped": ("failing", "refused", "systemctl stop nginx", "systemctl start nginx"),
    "nginx hangs": (
        "failing", "took|answer|time",
        "systemctl kill --signal=STOP nginx", "systemctl kill --signal=CONT nginx",
    ),
    "TLS broken": (
        "failing", "certificate",
        f"cp -a {TLS} /root/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj"
        f" /CN=x -addext subjectAltName=DNS:{VICTIM}.fleet.test -keyout {TLS}/privkey.pem -out {TLS}/fullchain.pem"
        " 2>/dev/null && systemctl reload nginx",
        f"rm -r {TLS} && mv /root/tls {TLS} && systemctl reload nginx",
    ),
    # As it is two days after the timer stopped.
    "syncs no more": (
        "stale", "last synced",
        f"date -u -d '2 days ago' +%Y%m%dT%H:%M:%S >/root/x && cp /root/x {SERVED}/last-modified", SYNC,
    ),
    # Rounds and audits draw what they ask for, so that either may be the first.
    "stale pages, fresh date": (
        "failing|audit", "lacks alpha-1",
        f"cd {SERVED}/pages/alpha && readlink cur >/root/cur && cp -a $(cat /root/cur) {OLD} && rm {OLD}/simple/*.gz"
        f" && sed -i '/alpha-1[.][1-9]/d' {OLD}/simple/index.html"
        f" && python3 -c '{OLD_PAGE}' {OLD}/simple/index.v1_json && ln -sfn {OLD} cur",
        f"cd {SERVED}/pages/alpha && ln -sfn $(cat /root/cur) cur && rm -r {OLD}",
    ),
    "leads elsewhere": (
        "failing", "elsewhere|leads|redirect",
        f"sed -i 's|^ *ssl_certificate_key .*|&\\nreturn 302 https://tier1.fleet.test$request_uri;|' {SITE}"
        " && systemctl reload nginx", RESTORE,
    ),
    "refuses pip": (
        "failing", "403",
        f"sed -i 's|^ *ssl_certificate_key .*|&\\nif ($http_user_agent ~ ^pip/) {{ return 403; }}|' {SITE}"
        " && systemctl reload nginx", RESTORE,
    ),
    # The last, for of it is told for a day.
    "one wrong byte": (
        "tampered", "wrong hash",
        f"printf '\\377' | dd status=none of={WHEEL} bs=1 seek=60 conv=notrunc",
        "cd / && runuser -u mirror -- /opt/mirrorfleet/current/bin/mirrorfleet check 2>&1",
    ),
}  # fmt: skip


NO_IPV6 = (
    "nft 'table inet fault { chain input { type filter hook input priority -10;"
    " meta nfproto ipv6 tcp dport 443 drop; }; }'"
)

# Of a mirror that syncs no more is told after five minutes, of a sync that fails after an hour: here after seconds.
RULES = "/etc/prometheus/mirrorfleet.rules.yml"
AT_ONCE = (
    f"cp -a {RULES} /root/rules && sed -Ei '/alert: Mirror(Stale|SyncFails)$/,/labels:/s/for: .*/for: 2s/' {RULES}"
    f" && [ $(grep -c 'for: 2s' {RULES}) = 2 ] && systemctl reload prometheus"
)
AS_BEFORE = f"cp -a /root/rules {RULES} && systemctl reload prometheus"


@pytest.fixture(scope="module")
def shells(scenario):
    found = {name: each.shell for name, each in scenario.hosts.items()}
    for name in ("origin", "tier1", VICTIM, "cache"):  # each syncs when it is told
        found[name].check_output(f"systemctl stop mirror-sync.timer; {SYNC}; cp -n {SITE} /root/site")
    found["monitor"].check_output(
        "systemctl start mirrorfleet-audit.timer mirrorfleet-audit.path mirrorfleet-probe.service"
    )
    found["monitor"].check_output(AT_ONCE)
    yield found
    found["monitor"].check_output(AS_BEFORE)
    for name in ("origin", "tier1", VICTIM, "cache"):
        found[name].check_output("systemctl start mirror-sync.timer")


@pytest.fixture(scope="module")
def standing(shells):
    def ask(mirror=VICTIM):
        said = shells["origin"].check_output(
            f"curl -sSf --cacert {CA} https://redirector.fleet.test/mirrors.json"
        )
        return next(one for one in json.loads(said)["mirrors"] if one["name"] == mirror)

    return ask


@pytest.fixture
def until(standing):
    """Wait until the list says so; the seconds that it took."""

    def wait(wanted, seconds=90):
        started = time.monotonic()
        while not wanted(found := standing()):
            assert time.monotonic() - started < seconds, found
            time.sleep(0.3)
        return time.monotonic() - started

    return wait


@pytest.fixture
def told(capsys):
    def tell(fault, left, back):
        with capsys.disabled():
            print(f"\n{fault}: off the list after {left:.1f} s, back {back:.1f} s after it was mended")

    return tell


# What audits find first here rounds find as well: of that is mailed sooner.
ALERTS = {
    "failing": "MirrorFails", "audit": "MirrorFails", "tampered": "MirrorTampered", "stale": "MirrorStale",
}  # fmt: skip


@pytest.fixture
def mailed(shells):
    """Wait for a mail that came since the test began."""
    folder, monitor = "/var/lib/sink/new", shells["monitor"]
    before = set(monitor.check_output(f"ls {folder} 2>/dev/null || true").split())

    def wait(to, subject, *words, seconds=90):
        for _ in range(seconds):
            found = set(monitor.check_output(f"ls {folder} 2>/dev/null || true").split()) - before
            for name in sorted(found):
                text = monitor.check_output(f"cat {folder}/{name}")
                mail = email.message_from_string(text, policy=email.policy.default)
                body = mail.get_body(("plain",)).get_content()
                if (
                    mail["To"] == to
                    and re.search(subject, mail["Subject"])
                    and all(one in body for one in words)
                ):
                    return body
            time.sleep(1)
        raise AssertionError(f"no mail to {to} about {subject} with {words}; there are {sorted(found)}")

    return wait


def others_listed(standing):
    return [mirror for mirror in ("tier1", "cache") if not standing(mirror)["listed"]] == []


def test_every_mirror_is_measured_audited_and_listed(shells, standing, until):
    until(
        lambda found: found["listed"] and others_listed(standing)
    )  # the monitor paused during the tests before
    health = json.loads(shells["monitor"].file("/var/lib/mirrorfleet/monitor/health.json").content_string)
    assert all(one["audit"]["passed_at"] for one in health["mirrors"].values())
    assert all(set(one["families"]) == {"ipv4", "ipv6"} for one in health["mirrors"].values())


def test_the_monitors_own_list_says_the_same(shells):
    """It is a redirector too, and reads what it measured from its disk."""
    lists = {
        json.dumps([(one["name"], one["listed"]) for one in json.loads(said)["mirrors"]])
        for name in ("redirector", "monitor")
        if (
            said := shells["origin"].check_output(
                f"curl -sSf --cacert {CA} https://{name}.fleet.test/mirrors.json"
            )
        )
    }
    assert len(lists) == 1, lists
    here = "/var/lib/mirrorfleet/monitor/health.json"
    assert here in json.loads(shells["monitor"].file("/etc/mirrorfleet/list.json").content_string)["health"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leads_off_the_list_and_its_end_back(shells, standing, until, told, mailed, fault):
    codes, words, harm, mend = FAULTS[fault]
    victim = shells[VICTIM]
    until(lambda found: found["listed"])
    victim.check_output(harm)
    try:
        left = until(lambda found: not found["listed"])
        found = standing()
        code = found["code"]
        assert code in codes.split("|")
        assert re.search(words, found["reason"]), found["reason"]
        assert found["next"]
        assert others_listed(standing)
        mail = mailed("volunteer@fleet.test", f"{VICTIM}: .*{ALERTS[code]}", "seen from  monitor", "next ")
        assert re.search(words, mail), mail
        if code == "tampered":
            mailed("coordinator@fleet.test", f"{VICTIM}: .*MirrorTampered")
    finally:
        victim.check_output(mend)
    back = until(lambda found: found["listed"])
    told(fault, left, back)
    if code != "tampered":
        # In one mail with what an audit found and the next one has to take back, if that is still so.
        mailed(
            "volunteer@fleet.test",
            f"(resolved: )?{VICTIM}: ",
            f"{ALERTS[code]}: resolved at",
            "returns by itself",
            seconds=180,
        )


def test_a_family_that_fails_is_withdrawn_alone_and_comes_back(shells, standing, until, mailed):
    victim = shells[VICTIM]
    until(lambda found: found["listed"] and "withdrawn" not in found)
    victim.check_output(NO_IPV6)
    try:
        until(lambda found: "withdrawn" in found)
        found = standing()
        assert (found["listed"], found["address_families"]) == (True, ["ipv4"])
        (withdrawn,) = found["withdrawn"]
        assert (withdrawn["family"], withdrawn["code"]) == ("ipv6", "failing")
        assert withdrawn["reason"] and withdrawn["next"]
        assert others_listed(standing)
        mailed("volunteer@fleet.test", f"{VICTIM}: .*MirrorFails", "over ipv6")
    finally:
        victim.check_output("nft delete table inet fault")
    until(lambda found: found["listed"] and "withdrawn" not in found)


# As it is seven hours later.
SEVEN_HOURS = """
import sqlite3
with sqlite3.connect("/var/lib/mirrorfleet/mirrorfleet.sqlite") as state:
    state.execute("UPDATE value SET value = value - 7 * 3600 WHERE key = 'last_success_at'")
    assert state.total_changes == 1
"""


def test_a_full_disk_fails_the_sync_and_what_is_served_stays_listed(shells, standing, mailed):
    shells["origin"].check_output(
        'echo \'{"yanked": {"2.0": "why not"}}\' >/srv/packages/beta-two/project.json'
    )
    for name in ("origin", "tier1"):
        shells[name].check_output(SYNC)
    victim = shells[VICTIM]
    victim.check_output("mount -t tmpfs -o size=4k,mode=755,uid=mirror tmpfs /srv/mirror/fetched")
    try:
        victim.check_output("python3 -c %s", SEVEN_HOURS)
        assert victim.run(SYNC).rc != 0
        said = victim.check_output("journalctl --unit mirror-sync.service --lines 20 --output cat")
        assert "No space left on device" in said
        assert standing()["listed"]
        mailed(
            "volunteer@fleet.test",
            f"{VICTIM}: .*MirrorSyncFails",
            "has not reached its upstream for 7h",
            "journalctl -u mirror-sync",
            "next ",
        )
        assert standing()["listed"]
    finally:
        victim.check_output("umount /srv/mirror/fetched")
    victim.check_output(SYNC)
    mailed("volunteer@fleet.test", f"resolved: {VICTIM}: ", "MirrorSyncFails: resolved at")
    assert "why not" in victim.check_output(f"cat {SERVED}/simple/beta-two/index.v1_json")


def test_wrong_bytes_for_everybody_but_the_monitor_are_the_documented_limit(scenario, shells, standing):
    """Only clients see them, and their hashes refuse them."""
    victim, monitor = shells[VICTIM], scenario.hosts["monitor"]
    victim.check_output(
        f"cp {WHEEL} /srv/wrong.whl && printf '\\377' | dd status=none of=/srv/wrong.whl bs=1 seek=60 conv=notrunc"
        " && chmod 644 /srv/wrong.whl"
    )
    seen_by = "|".join(re.escape(address) for address in monitor.addresses)
    victim.check_output(
        f'sed -i \'s#^ *ssl_certificate_key .*#&\\nif ($remote_addr !~ "^({seen_by})$")'
        f" {{ rewrite alpha-1.0-.*whl$ /wrong.whl; }}\\nlocation = /wrong.whl {{ root /srv; }}#' {SITE}"
        " && nginx -t -q && systemctl reload nginx"
    )
    try:
        time.sleep(10)  # some rounds
        assert standing()["listed"]
        refused = shells["origin"].run(
            f"rm -rf /tmp/t; python3 -m pip --isolated install -q --no-cache-dir --cert {CA} --target /tmp/t"
            f" --index-url https://{VICTIM}.fleet.test/simple/ alpha==1.0"
        )
        assert refused.rc != 0
        assert "DO NOT MATCH THE HASHES" in refused.stderr
    finally:
        victim.check_output(RESTORE)


@pytest.mark.parametrize(
    ("harm", "mend", "alert"),
    [
        (
            "nft 'table inet fault { chain output { type filter hook output priority -10;"
            " tcp dport 443 drop; }; }'", "nft delete table inet fault", "MonitorCutOff",
        ),
        ("systemctl stop mirrorfleet-probe.service", "systemctl start mirrorfleet-probe.service", ""),
        ("systemctl stop nginx", "systemctl start nginx", ""),
    ],
    ids=["sees nothing", "measures nothing", "is not seen"],
)  # fmt: skip
def test_a_monitor_that_is_cut_off_takes_nobody_off_the_list(
    shells, standing, until, mailed, harm, mend, alert
):
    monitor, redirector, victim = shells["monitor"], shells["redirector"], shells[VICTIM]
    metrics = "/var/lib/prometheus/node-exporter/mirrorfleet-list.prom"
    monitor.check_output(harm)
    try:
        for _ in range(120):
            if "mirrorfleet_list_kept 1" in redirector.file(metrics).content_string:
                break
            time.sleep(0.5)
        else:
            raise AssertionError(redirector.file(metrics).content_string)
        victim.check_output("systemctl stop nginx")
        time.sleep(8)
        assert standing()["listed"], standing()
        assert others_listed(standing)
        if alert:  # of which is told after two minutes
            mailed("coordinator@fleet.test", alert, "it has no vote", seconds=240)
            assert standing()["listed"], standing()
    finally:
        victim.check_output("systemctl start nginx")
        monitor.check_output(mend)
    for _ in range(120):
        if "mirrorfleet_list_kept 0" in redirector.file(metrics).content_string:
            break
        time.sleep(0.5)
    else:
        raise AssertionError("the list is still kept")
    if alert:
        mailed("coordinator@fleet.test", f"resolved: .*{alert}")
    until(lambda found: found["listed"] and others_listed(standing))
