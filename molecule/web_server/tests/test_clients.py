"""Every mode through clients that nobody here wrote: pip, uv, poetry and pypi-simple, HTML and JSON, and a TLS scanner.

An origin and a mirror whose on_miss is not_found are asked in test_other_options.py, for that is another configuration.
"""

import contextlib
import json

import pytest
from visitors import CLIENTS, check_installers, check_poetry, check_pypi_simple, clients, of_host


@contextlib.contextmanager
def as_a_cache(host):
    """A mirror of mode cache is this one without a tree, and with nothing in its cache yet."""
    turn = "systemctl stop nginx && rm -rf /var/cache/nginx/mirror/* && {} && systemctl start nginx"
    host.check_output(turn.format("mv /srv/mirror/served /srv/mirror/aside && mkdir /srv/mirror/served"))
    try:
        yield
    finally:
        host.check_output(turn.format("rm -r /srv/mirror/served && mv /srv/mirror/aside /srv/mirror/served"))


@pytest.mark.parametrize("mode", ["tree and upstream", "cache"])
def test_clients(scenario, host, me, mode, tmp_path):
    own, lacking = of_host(me.name)
    with as_a_cache(host) if mode == "cache" else contextlib.nullcontext():
        # what the other host has not, a cache whose upstream it is cannot have
        projects = ["fleet-sample", lacking] + ([own] if mode != "cache" else [])
        listed = sorted(["fleet-sample", own]) if mode != "cache" else None
        check_pypi_simple(scenario, me.name, projects, listed, tmp_path)
        check_poetry(scenario, me.name, projects, tmp_path / "poetry")
        check_installers(host, me.name, projects)
        if mode == "cache":
            assert host.run("ls -A /srv/mirror/served").stdout == ""
            assert int(host.check_output("find /var/cache/nginx/mirror -type f | wc -l")) > 0


def test_a_client_notices_a_file_that_is_not_what_the_page_says(scenario, host, me, tmp_path):
    """That these tests can fail."""
    own, _ = of_host(me.name)
    wheel = f"/srv/mirror/served/packages/*/*/*/{own.replace('-', '_')}-2.0-*.whl"
    host.check_output(f"cp -p {wheel} /tmp/kept && printf x | dd of=$(ls {wheel}) conv=notrunc status=none")
    try:
        with pytest.raises(AssertionError, match="DigestMismatchError"):
            check_pypi_simple(scenario, me.name, [own], None, tmp_path)
    finally:
        # what workers remember of the open file goes with them
        host.check_output(
            f"cat /tmp/kept >$(ls {wheel}) && touch -r /tmp/kept {wheel} && systemctl reload nginx"
        )


def test_tls_by_the_published_profile(scenario, tmp_path):
    """sslyze: no known weakness, and Mozilla's "intermediate" guidelines kept, on all hosts in one run."""
    report = tmp_path / "tls.json"
    targets = [f"{host.name}.fleet.test{{{host.ipv4}}}" for host in scenario.hosts.values()]
    said = clients(
        scenario, tmp_path, CLIENTS / "sslyze", "--mozilla_config=intermediate", "--quiet",
        f"--certinfo_ca_file={scenario.dir}/site/ca.pem", f"--json_out={report}", *targets,
    )  # fmt: skip
    # it ends with 0 only when every server complies
    assert "FAILED" not in said
    results = json.loads(report.read_text())["server_scan_results"]
    assert len(results) == len(scenario.hosts)
    for server in results:
        scan = {name: outcome.get("result") for name, outcome in server["scan_result"].items()}
        for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
            assert scan[f"{old}_cipher_suites"]["accepted_cipher_suites"] == []
        assert scan["tls_1_3_cipher_suites"]["accepted_cipher_suites"]
        assert not scan["heartbleed"]["is_vulnerable_to_heartbleed"]
        assert not scan["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
        assert not scan["tls_compression"]["supports_compression"]
        assert not scan["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
        assert scan["tls_fallback_scsv"]["supports_fallback_scsv"]
