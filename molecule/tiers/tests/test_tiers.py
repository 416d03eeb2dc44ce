"""A fleet of every mode: what each tier got of the one above, what clients get of each, and who is let in."""

import json
import shlex
import time

import pytest

SERVED = "/srv/mirror/served"
CA = "/etc/ssl/certs/ca-certificates.crt"
MIRRORS = ("tier1", "tier2", "cache")
TREES = ("origin", "tier1", "tier2")
SYNC = "systemctl start mirror-sync.service"
STOCK = """
[mirror]
directory = /srv/stock
master = https://tier1.fleet.test
api-method = simple
json = true
timeout = 30
workers = 2
hash-index = false
stop-on-error = false
storage-backend = filesystem
verifiers = 2
compare-method = hash
"""
INSTALL = {
    "pip": f"python3 -m pip --isolated install --quiet --no-cache-dir --cert {CA}"
    " --target {to} --index-url {index} {what}",
    "uv": f"SSL_CERT_FILE={CA} uv pip install --quiet --no-config --no-cache"
    " --target {to} --default-index {index} {what}",
}


@pytest.fixture(scope="session")
def shells(scenario):
    found = {name: each.shell for name, each in scenario.hosts.items()}
    # It asks mirrors for files all the time; test_watched.py is about that.
    found["monitor"].check_output(
        "systemctl stop mirrorfleet-audit.timer mirrorfleet-audit.path mirrorfleet-audit.service"
        " mirrorfleet-probe.service"
    )
    return found


@pytest.fixture(scope="session")
def client(shells):
    """The origin's host is a client like any other."""
    return shells["origin"]


@pytest.fixture(scope="session")
def fetch(client):
    """A project's page as clients get it of a mirror; None when there is none."""

    def ask(mirror, project):
        said = client.check_output(
            "curl --silent --cacert %s --header 'Accept: application/vnd.pypi.simple.v1+json'"
            " --write-out '\\n%%{http_code}' %s",
            CA,
            f"https://{mirror}.fleet.test/simple/{project}/",
        )
        body, _, status = said.rpartition("\n")
        assert status in {"200", "404"}, said
        return json.loads(body) if status == "200" else None

    return ask


@pytest.fixture(scope="session")
def install(client):
    def run(tool, mirror, what):
        to = f"/tmp/{tool}-{mirror}"
        command = INSTALL[tool].format(to=to, index=f"https://{mirror}.fleet.test/simple/", what=what)
        client.check_output(f"rm -rf {to}; {command}")
        module = what.partition("=")[0].replace("-", "_")
        return client.check_output(f"PYTHONPATH={to} python3 -c 'import {module}; print({module}.VERSION)'")

    return run


def tree(shell):
    """Every file and page that a host serves, by its content; the links by where they lead. Compressed pages differ
    with the platform's zlib."""
    return shell.check_output(
        f"cd {SERVED} && find packages pages simple pypi"
        " -type f ! -name '*.gz' -exec sha256sum {} + -o -type l -printf '%l  %p\\n' | sort -k2"
    )


# --- as it was made ---


def test_trees_are_equal_between_the_tiers(shells):
    assert "alpha-1.1-py3-none-any.whl.metadata" in tree(shells["tier1"])
    assert tree(shells["tier2"]) == tree(shells["tier1"])


def test_only_what_needs_bandersnatch_has_it(shells):
    assert shells["tier1"].file("/opt/bandersnatch/current").exists
    for name in ("tier2", "cache"):
        assert not shells[name].file("/opt/bandersnatch").exists
        assert shells[name].service("mirror-sync.timer").is_running


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("tool", INSTALL)
def test_pip_and_uv_install_from_each(install, mirror, tool):
    assert install(tool, mirror, "beta-two") == "2.0"
    assert install(tool, mirror, "alpha==1.0") == "1.0"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_http3_where_the_inventory_says_so(shells, family):
    """Through the firewall, which opens its UDP port on that mirror alone."""

    def ask(mirror):
        return shells["redirector"].run(
            f"curl {family} -sS --http3-only --max-time 10 --cacert {CA} -o /dev/null -w '%{{http_version}}'"
            f" https://{mirror}.fleet.test/mirror.json"
        )

    assert ask("tier1").stdout == "3"
    assert ask("cache").rc != 0


def test_a_cache_has_no_files_but_those_asked_for(shells, fetch):
    assert [file["filename"] for file in fetch("cache", "alpha")["files"]] == [
        file["filename"] for file in fetch("tier1", "alpha")["files"]
    ]
    assert shells["cache"].check_output(f"find {SERVED} -name '*.whl'") == ""
    assert shells["cache"].check_output("find /var/cache/nginx/mirror -type f") != ""


# --- rsync ---

ASK = "timeout 20 rsync --contimeout=5 rsync://{}/{} 2>&1"


def test_rsync_is_for_the_tier_below_only(scenario, shells, open_ports):
    tier1 = scenario.hosts["tier1"]
    assert open_ports(tier1, [873], scenario.hosts["tier2"]) == {873}
    for stranger in ("origin", "cache"):
        assert open_ports(tier1, [873], scenario.hosts[stranger]) == set()
    for name in ("origin", "tier2", "cache"):
        assert shells[name].run("systemctl is-active mirror-rsync.service").rc != 0


def test_strangers_are_refused_by_the_daemon_too(scenario, shells):
    """Without the firewall: from the host itself, which is not its own client."""
    said = shells["tier1"].run(ASK.format("localhost", "mirror/")).stdout
    assert "Unknown module" in said
    assert "packages" not in said


def test_the_daemon_offers_the_tree_and_nothing_else(shells):
    tier2 = shells["tier2"]
    assert tier2.run(ASK.format("tier1.fleet.test", "")).stdout.strip() == ""
    assert "cur -> s-" in tier2.run(ASK.format("tier1.fleet.test", "mirror/pages/alpha/") + " -l").stdout
    denied = tier2.run("touch /tmp/x; rsync /tmp/x rsync://tier1.fleet.test/mirror/x 2>&1").stdout
    assert "read only" in denied


def test_the_daemon_sees_of_the_host_the_tree_and_its_configuration(shells):
    tier1 = shells["tier1"]
    unit = tier1.check_output("systemctl cat mirror-rsync.service")
    # Not its runtime directory, which would be removed when the command ends.
    confinement = [
        line
        for line in unit.partition("[Service]")[2].partition("\n[")[0].splitlines()
        if "=" in line and not line.startswith(("#", "Exec", "Restart", "Runtime"))
    ]
    options = " ".join(f"--property {shlex.quote(line)}" for line in confinement)
    attempts = "; ".join(
        [
            "find / -maxdepth 1; find /etc /srv /run /tmp -type f",
            "touch /x /tmp/x /srv/mirror/served/x /usr/x",
            "id -u",
        ]
    )
    said = tier1.check_output(
        f"systemd-run --quiet --wait --pipe --collect {options} /usr/bin/sh -c {shlex.quote(attempts)} 2>&1"
    )
    seen = {line for line in said.splitlines() if line.startswith("/") and not line.startswith(f"{SERVED}/")}
    assert seen - {"/lib64", "/sys", "/proc", "/dev", "/run/systemd/journal/dev-log"} == {
        "/", "/etc", "/lib", "/run", "/srv", "/tmp", "/usr", "/var",
        "/etc/ld.so.cache", "/etc/mirrorfleet/rsync/rsyncd.conf",
    }  # fmt: skip
    assert said.count("touch: cannot touch") == 3, said
    assert tier1.run("systemd-analyze security --no-pager --threshold=25 mirror-rsync.service").succeeded


# --- every mirror is a valid upstream ---


@pytest.mark.parametrize(("place", "version"), [("origin", "6.8"), ("redirector", "8.2")])
def test_a_stock_bandersnatch_syncs_from_a_tier_1(shells, place, version):
    stock, bandersnatch = shells[place], "/opt/bandersnatch/current/bin/bandersnatch"
    assert version in stock.check_output(f"{bandersnatch} --version")
    stock.check_output("mkdir -p /srv/stock && printf %s >/tmp/stock.conf", STOCK)
    stock.check_output(f"SSL_CERT_FILE={CA} {bandersnatch} --config /tmp/stock.conf mirror 2>&1")
    assert not stock.file("/srv/stock/todo").exists
    packages = "find packages -name '*.whl' | sort"
    theirs = stock.check_output(f"cd /srv/stock/web && {packages}")
    assert theirs == shells["tier1"].check_output(f"cd {SERVED} && {packages}")
    assert len(theirs.split()) == 4


seen = []


def answered_by(shells, path):
    """Where the cache has the answer to this request from, by its log."""
    url = f"https://cache.fleet.test{path}"
    shells["origin"].check_output("curl --silent --fail --output /dev/null --cacert %s %s", CA, url)
    for _ in range(60):
        said = shells["cache"].check_output(
            "grep -F %s /var/log/nginx/access.log | tail -n 1", f'"uri":"{path}"'
        )
        if said and (said, path) not in seen:
            seen.append((said, path))
            return json.loads(said)["cache"]
        time.sleep(0.5)
    raise AssertionError(f"{path} is not in the log")


def test_a_purged_file_is_asked_for_again(shells, fetch):
    urls = [file["url"].split("#")[0] for file in fetch("cache", "alpha")["files"]]
    purged, kept = sorted("/packages/" + url.partition("packages/")[2] for url in urls)[:2]
    for path in (purged, kept):
        answered_by(shells, path)
        assert answered_by(shells, path) == "HIT"
    said = shells["cache"].check_output(
        f"/opt/mirrorfleet/current/bin/mirrorfleet purge {purged} 2>/dev/null"
    )
    assert json.loads(said)["removed"] >= 1
    assert answered_by(shells, purged) == "MISS"
    assert answered_by(shells, purged) == "HIT"
    assert answered_by(shells, kept) == "HIT"


# --- what happens upstream ---


@pytest.fixture(scope="session")
def coming(fetch):
    """Where the cache will have the file of a release that is not there yet: it has the bytes of another."""
    urls = [file["url"].split("#")[0] for file in fetch("cache", "alpha")["files"]]
    there = next(url for url in urls if url.endswith("/alpha-1.1-py3-none-any.whl"))
    return (
        "https://cache.fleet.test/packages/"
        + there.replace("alpha-1.1", "alpha-1.2").partition("packages/")[2]
    )


STATUS = "curl --silent --output /dev/null --write-out '%%{http_code}' --cacert %s %s"


@pytest.fixture(scope="session")
def changed(shells, coming):
    """A new release, a yanked one and a deleted project at the origin, brought down tier by tier."""
    assert shells["origin"].check_output(STATUS, CA, coming) == "404"
    for name in (*TREES, "cache"):  # from here on each syncs when it is told
        shells[name].check_output(f"systemctl stop mirror-sync.timer && {SYNC}")
    shells["origin"].check_output(
        "cd /srv/packages && cp -p alpha/alpha-1.1-py3-none-any.whl alpha/alpha-1.2-py3-none-any.whl &&"
        """ echo '{"yanked": {"2.0": "it is broken"}}' >beta-two/project.json && rm -r gamma"""
    )
    for _ in range(2):  # what has left is deleted by the next run
        for name in (*TREES, "cache"):
            shells[name].check_output(SYNC)


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize("mirror", MIRRORS)
def test_it_arrives_everywhere(fetch, mirror):
    for _ in range(30):  # a cache answers with what it has while it asks
        pages = {name: fetch(mirror, name) for name in ("alpha", "beta-two", "gamma")}
        if pages["gamma"] is None and len(pages["alpha"]["files"]) == 3:
            break
        time.sleep(1)
    assert "alpha-1.2-py3-none-any.whl" in [file["filename"] for file in pages["alpha"]["files"]]
    assert [file["yanked"] for file in pages["beta-two"]["files"]] == ["it is broken"]
    assert pages["gamma"] is None


@pytest.mark.usefixtures("changed")
def test_a_file_that_was_asked_for_too_early_is_served_when_it_is_there(shells, coming):
    for _ in range(20):
        if shells["origin"].check_output(STATUS, CA, coming) == "200":
            return
        time.sleep(0.5)
    raise AssertionError("the cache goes on saying 404")


@pytest.mark.usefixtures("changed")
def test_trees_are_equal_afterwards(shells):
    assert "gamma" not in tree(shells["tier2"])
    assert tree(shells["tier2"]) == tree(shells["tier1"])
    serials = {
        name: json.loads(shells[name].file(f"{SERVED}/mirror.json").content_string)["serial"]
        for name in MIRRORS
    }
    assert len(set(serials.values())) == 1, serials


@pytest.mark.usefixtures("changed")
def test_a_cache_serves_while_its_upstream_is_down(shells, install):
    for tool in INSTALL:
        assert install(tool, "cache", "alpha==1.0") == "1.0"
    shells["tier1"].check_output("systemctl stop nginx.service")
    try:
        for tool in INSTALL:
            assert install(tool, "cache", "alpha==1.0") == "1.0"
        assert shells["cache"].run(SYNC).rc != 0
    finally:
        shells["tier1"].check_output("systemctl start nginx.service")
    assert shells["cache"].run(SYNC).rc == 0


def test_a_mirror_of_an_acme_server_got_its_certificate_while_it_was_provisioned(shells):
    """From a bare host: before its web server had any certificate."""
    said = shells["tier2"].check_output(
        "openssl x509 -noout -issuer -subject -in /etc/mirrorfleet/tls/fullchain.pem"
    )
    assert "Pebble" in said
    shells["tier2"].check_output("systemctl is-enabled mirror-certificate.timer")
