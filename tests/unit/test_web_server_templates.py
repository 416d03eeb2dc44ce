"""The web server's configuration, rendered as Ansible renders it, read back by a parser of nginx's language."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crossplane  # type: ignore[import-untyped]
import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mirrorfleet.route.nginx
from mirrorfleet.route.pools import Mirror, route
from plugin_utils import wiring
from plugin_utils.filters import trusted

ROOT = Path(__file__).resolve().parents[2]
NGINX, ROLE, DOCUMENTS = (ROOT / f"roles/{name}" for name in ("nginx", "web_server", "document_server"))
PASS = {
    "web_server_on_miss": "pass",
    "web_server_upstream_index": "https://upstream.fleet.test/simple/",
    "web_server_upstream_files": "https://files.fleet.test/",
    "web_server_upstream_listing": True,
}
EVERYTHING = PASS | {
    "web_server_plain_http": True,
    "nginx_hsts_max_age": 300,
    "nginx_ocsp_stapling": True,
    "web_server_unlimited_networks": ["192.0.2.0/24", "2001:db8::/32"],
}
# What a host says whose kernel does not know IPv6, whatever the inventory wants of it.
NO_IPV6 = {"__nginx_ipv6_socket": {"rc": 1}}
VARIANTS = [
    pytest.param(platform, options, id=f"{platform}-{name}")
    for platform in ("Debian-13", "Debian-12")
    for name, options in {
        "defaults": {},
        "pass": PASS,
        "everything": EVERYTHING,
        "ipv4": {"nginx_address_families": ["ipv4"]},
        "no-ipv6": PASS | NO_IPV6,
    }.items()
] + [pytest.param("Debian-13", EVERYTHING | {"nginx_http3": True}, id="Debian-13-http3")]

Directive = dict[str, Any]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def render(
    folder: Path, platform: str = "Debian-13", options: dict[str, Any] | None = None, role: Path = ROLE
) -> Path:
    """/etc/nginx below the folder, of a host with one role's site; options are plain values, never templates."""
    filter_loader.add_directory(str(ROOT / "filter_plugins"))
    *tasks, serve = load(role / "tasks/main.yml")
    variables: dict[str, Any] = {"__nginx_ipv6_socket": {"rc": 0}, "ansible_managed": "managed"}
    for file in (NGINX / "defaults/main.yml", NGINX / "vars/main.yml", NGINX / f"vars/{platform}.yml"):
        variables |= trusted(load(file))
    variables |= trusted(load(role / "defaults/main.yml") | serve["vars"])
    variables |= {
        "inventory_hostname": "mirror.fleet.test",
        "ansible_facts": {"dns": {"nameservers": ["192.0.2.53", "2001:db8::53"]}},
        **(options or {}),
    }

    templar = Templar(loader=DataLoader(), variables=variables)
    files = [*variables["__nginx_files"], *templar.template(variables["__nginx_site_files"])]
    declared = [
        (role, file)
        for task in tasks
        if "host_state" in task
        if templar.template(trust_as_template("{{ " + task.get("when", "true") + " }}"))
        for file in task["host_state"]["files"]
    ]
    for room, file in [(NGINX, file) for file in files] + declared:
        if not file["path"].startswith("/etc/nginx/"):
            continue
        if "src" in file:
            text = (room / "files" / file["src"]).read_text()
        else:
            templar.available_variables = variables | {"template_destpath": file["path"]}
            text = templar.template(trust_as_template((room / "templates" / file["template"]).read_text()))
        path = folder / Path(file["path"]).relative_to("/etc/nginx")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"/etc/nginx/(?=mirror|documents|shared|sites)", f"{folder}/", text))
    return folder / "nginx.conf"


def parse(path: Path) -> list[Directive]:
    """The whole configuration as one tree, includes in their places."""
    found = crossplane.parse(str(path), combine=True, strict=False, ignore=["modules-enabled"])
    assert not found["errors"], found["errors"]
    return list(found["config"][0]["parsed"])


def walk(
    block: list[Directive], above: tuple[Directive, ...] = ()
) -> Iterator[tuple[Directive, tuple[Directive, ...]]]:
    for directive in block:
        yield directive, above
        yield from walk(directive.get("block", []), (*above, directive))


def values(tree: list[Directive], name: str) -> list[list[str]]:
    return [directive["args"] for directive, _ in walk(tree) if directive["directive"] == name]


def map_of(tree: list[Directive], variable: str) -> list[tuple[str, str]]:
    block = next(d["block"] for d, _ in walk(tree) if d["directive"] == "map" and d["args"][1] == variable)
    return [(entry["directive"], entry["args"][0]) for entry in block if entry["args"]]


@pytest.mark.parametrize(("platform", "options"), VARIANTS)
def test_parses(tmp_path: Path, platform: str, options: dict[str, Any]) -> None:
    tree = parse(render(tmp_path, platform, options))
    servers = [directive for directive, _ in walk(tree) if directive["directive"] == "server"]
    assert len(servers) == 3 + (options.get("web_server_on_miss") == "pass")
    http2 = any("http2" in listen for listen in values(tree, "listen")), ["on"] in values(tree, "http2")
    assert http2 == ((False, True) if platform == "Debian-13" else (True, False))
    families = options.get(
        "nginx_address_families", ["ipv4", "ipv6"] if "__nginx_ipv6_socket" not in options else ["ipv4"]
    )
    assert any("[::]:443" in listen for listen in values(tree, "listen")) == ("ipv6" in families)


@pytest.mark.parametrize(("platform", "options"), VARIANTS)
def test_headers_are_added_in_one_place(tmp_path: Path, platform: str, options: dict[str, Any]) -> None:
    """An add_header or proxy_set_header in a location drops all those of the server."""
    for directive, above in walk(parse(render(tmp_path, platform, options))):
        if directive["directive"] in {"add_header", "proxy_set_header"}:
            assert [block["directive"] for block in above] == ["http", "server"], directive


@pytest.mark.parametrize(("platform", "options"), VARIANTS)
def test_only_named_paths_are_public(tmp_path: Path, platform: str, options: dict[str, Any]) -> None:
    public = {
        "/", "= /", "= /robots.txt", "= /simple", "= /simple/", "/simple/", "/pypi/", "/packages/",
        "= /last-modified", "= /mirror.json", "^~ /.well-known/acme-challenge/",
    }  # fmt: skip
    for directive, above in walk(parse(render(tmp_path, platform, options))):
        if directive["directive"] != "location" or above[-1]["directive"] != "server":
            continue
        if values(above[-1]["block"], "listen") == [["unix:/run/nginx-mirror.sock"]]:
            continue
        where = " ".join(directive["args"])
        inside = [entry["directive"] for entry in directive["block"]]
        assert where in public or where.startswith("@") or "internal" in inside, where


def gixy(path: Path) -> set[str]:
    """The problems that the static analyser finds, without those that are meant."""
    meant = {
        # HSTS is an option: some mirrors have to stay reachable by plain HTTP.
        "hsts_header",
        # systemd's LimitNOFILE says it, where a limit of the host's is not an error at start.
        "worker_rlimit_nofile_vs_connections",
    }
    result = subprocess.run(
        [Path(sys.executable).parent / "gixy", "--format", "json", path],
        capture_output=True,
        text=True,
        check=False,
    )
    return {found["plugin"] for found in json.loads(result.stdout)} - meant


@pytest.mark.parametrize(("platform", "options"), VARIANTS)
def test_static_analysis(tmp_path: Path, platform: str, options: dict[str, Any]) -> None:
    assert gixy(render(tmp_path, platform, options)) == set()


def routes(folder: Path) -> dict[str, Any]:
    """What makes an index for the whole fleet of a mirror's site."""
    path = folder / "routes.conf"
    one = Mirror(
        "a", "https://a.fleet.test", 100, "NZ", "OC", serving=frozenset({"ipv4"}), addresses=("192.0.2.1",)
    )
    path.write_text(mirrorfleet.route.nginx.render(route([one])))
    return {"web_server_routes": str(path)}


@pytest.mark.parametrize("platform", ["Debian-13", "Debian-12"])
@pytest.mark.parametrize("options", [{}, PASS], ids=["defaults", "pass"])
def test_static_analysis_of_an_index_for_the_whole_fleet(
    tmp_path: Path, platform: str, options: dict[str, Any]
) -> None:
    # Whom the live check asks is an upstream block by its address: `mirrorfleet route` makes them anew.
    assert gixy(render(tmp_path, platform, options | routes(tmp_path))) == {"missing_resolver"}


@pytest.mark.parametrize(("platform", "options"), VARIANTS)
def test_a_site_that_sends_nobody_to_mirrors_has_nothing_of_it(
    tmp_path: Path, platform: str, options: dict[str, Any]
) -> None:
    render(tmp_path, platform, options)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if "route" in path.name]
    # What nginx reads; its scripts are the same on all hosts.
    assert not [path for path in files if path.suffix != ".js" and "route" in path.read_text()]


def redirector(folder: Path, platform: str, options: dict[str, Any] | None = None) -> Path:
    """nginx.conf of a host that is redirector and monitor."""
    site = {
        "document_server_names": ["redirector.fleet.test"],
        "document_server_paths": {"/": "/srv/a", "/health.json": "/srv/b.json", "/audits/": "/srv/c/"},
    }
    return render(folder, platform, site | (options or {}), DOCUMENTS)


@pytest.mark.parametrize("platform", ["Debian-13", "Debian-12"])
def test_static_analysis_of_the_redirector(tmp_path: Path, platform: str) -> None:
    # Its few documents change under their names and have to be seen at once: no cache of open files.
    assert gixy(redirector(tmp_path, platform)) == {"try_files_is_evil_too"}


@pytest.mark.parametrize("platform", ["Debian-13", "Debian-12"])
def test_the_redirector_speaks_tls_as_mirrors_do(tmp_path: Path, platform: str) -> None:
    """By the profile that a real scanner finds mirrors to keep (scenario web_server)."""
    (tmp_path / "mirror").mkdir()
    (tmp_path / "redirector").mkdir()
    mirror, site = (
        parse(render(tmp_path / "mirror", platform)),
        parse(redirector(tmp_path / "redirector", platform)),
    )
    for name in ("ssl_protocols", "ssl_ciphers", "ssl_prefer_server_ciphers", "ssl_ecdh_curve"):
        assert values(site, name) == values(mirror, name) != [], name


@pytest.mark.parametrize("platform", ["Debian-13", "Debian-12"])
@pytest.mark.parametrize("site", [render, redirector])
def test_a_host_without_ipv6_is_asked_for_no_address_of_it(tmp_path: Path, site: Any, platform: str) -> None:
    """Whatever the inventory says; nor does nginx ask others by it."""
    options = NO_IPV6 | PASS | {"nginx_address_families": ["ipv4", "ipv6"]}
    tree = parse(site(tmp_path, platform, options))
    assert len([args for args in values(tree, "listen") if not args[0].startswith("unix:")]) == 4
    assert not [args for args in values(tree, "listen") if "[" in args[0]]
    for args in values(tree, "resolver"):
        assert args == ["192.0.2.53", "valid=60s", "ipv6=off"]


@pytest.mark.parametrize("families", [["ipv4", "ipv6"], ["ipv6", "ipv4"]])
def test_addresses_keep_their_order_from_run_to_run(tmp_path: Path, families: list[str]) -> None:
    tree = parse(render(tmp_path, options={"nginx_address_families": families}))
    plain = [args[0] for args in values(tree, "listen") if args[0].endswith("80")]
    assert plain == [{"ipv4": "80", "ipv6": "[::]:80"}[family] for family in families] * 2


def test_sites_of_several_roles_stand_side_by_side(tmp_path: Path) -> None:
    """What a redirector needs that carries an index, too: each role renders the shared part alike, and its own site."""
    site = render(tmp_path)
    shared = site.read_text()
    assert redirector(tmp_path, "Debian-13").read_text() == shared
    tree = parse(site)
    assert values(tree, "server_name") == [
        [""],
        *[["redirector.fleet.test"]] * 2,
        *[["mirror.fleet.test"]] * 2,
    ]
    listening = [args for args in values(tree, "listen") if "default_server" in args]
    assert len(listening) == 4
    assert gixy(site) == {"try_files_is_evil_too"}


def test_static_analysis_would_find_something(tmp_path: Path) -> None:
    path = render(tmp_path)
    serve = tmp_path / "mirror/serve.conf"
    serve.write_text(serve.read_text().replace("return 301 /simple/$normalised_name/", "return 301 /$uri"))
    assert "http_splitting" in gixy(path)


@pytest.mark.parametrize(("bandwidth", "rate"), [(10, 50), (100, 50), (1000, 100), (40_000, 4000)])
def test_limits_follow_the_bandwidth(tmp_path: Path, bandwidth: int, rate: int) -> None:
    tree = parse(render(tmp_path, options={"web_server_bandwidth": bandwidth}))
    assert values(tree, "limit_req_zone")[0][-1] == f"rate={rate}r/s"
    assert values(tree, "limit_req") == [["zone=requests", f"burst={rate * 40}", f"delay={rate * 20}"]]
    assert values(tree, "limit_conn") == [["connections", str(max(100, bandwidth // 10))]]


# nginx has no escape for $; control characters have no business in a path
INERT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="$"), min_size=1, max_size=40
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=INERT)
def test_paths_come_back_as_they_were(tmp_path: Path, path: str) -> None:
    options = {f"web_server_{name}": f"/{path}" for name in ("served", "cache_path", "upstream_ca")}
    options |= {f"nginx_{name}": f"/{path}" for name in ("acme_webroot", "certificate", "certificate_key")}
    tree = parse(render(tmp_path, options=PASS | options))
    directives = (
        "ssl_certificate",
        "ssl_certificate_key",
        "proxy_cache_path",
        "proxy_ssl_trusted_certificate",
    )
    # crossplane keeps the backslashes that nginx takes away
    found = {re.sub(r"\\(.)", r"\1", args[0]) for name in directives for args in values(tree, name)}
    assert found == {f"/{path}"}
    roots = {re.sub(r"\\(.)", r"\1", args[0]) for args in values(tree, "root")}
    assert roots == {f"/{path}", "$served/pages/$project/cur"}


@pytest.mark.parametrize(
    "name",
    ["", "*", "*.fleet.test", "~^mirror", "_", "a b.test", "a.test;", "a.test}", 'a"b.test', "a.test\n", "$host.test",
     "m\u00efrror.fleet.test", "a/b.test"],
)  # fmt: skip
def test_a_name_that_is_no_host_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnsibleError, match="allowed"):
        render(tmp_path, options={"web_server_names": [name]})


@pytest.mark.parametrize("value", ["/srv/$host", "/srv\nroot /", "/srv\x00"])
def test_a_path_that_cannot_be_quoted_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(AnsibleError, match="contains the character"):
        render(tmp_path, options={"web_server_served": value})


ADDRESSES = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6, network="2000::/3"),
    # with zeros where nginx shortens, but not before the first group: no client comes from there
    st.tuples(st.just(0x2001), *[st.sampled_from([0, 0, 1, 0xFFFF])] * 7).map(
        lambda groups: ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups))
    ),
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return map_of(parse(render(tmp_path_factory.mktemp("nginx"))), "$client_network")


@given(address=ADDRESSES)
def test_the_log_keeps_networks(
    networks: list[tuple[str, str]], address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    kept = ""
    for pattern, value in networks:
        if pattern == "default":
            continue
        if found := re.match(pattern.removeprefix("~").replace("(?<", "(?P<"), str(address)):
            kept = value.replace("$v4", found.groupdict().get("v4", "")).replace(
                "$v6", found.groupdict().get("v6", "")
            )
            break
    prefix = 24 if address.version == 4 else 48
    assert ipaddress.ip_address(kept) == ipaddress.ip_network((address, prefix), strict=False).network_address


@pytest.mark.parametrize("role", [NGINX, ROLE, DOCUMENTS])
def test_specification_and_defaults_agree(role: Path) -> None:
    specification = load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = load(role / "defaults/main.yml")
    assert {name: option["default"] for name, option in specification.items()} == defaults
    assert list(specification) == list(defaults)


def test_the_package_is_guarded_before_all_packages_are_installed() -> None:
    """Debian's nginx fails to install where the kernel does not know IPv6 (scenario nginx)."""
    (play,) = [
        one for one in load(ROOT / "playbooks/provision.yml") if "host_baseline" in one.get("roles", [])
    ]
    wanted = {"name": "nginx", "tasks_from": "guard"}
    assert wanted in [task.get("ansible.builtin.include_role") for task in play["pre_tasks"]]


def test_preflight_finds_where_redirects_are_followed() -> None:
    """Only where a mirror asks upstream at all."""
    filter_loader.add_directory(str(ROOT / "filter_plugins"))
    wired = trust_as_template(wiring.TEMPLATES["mirrors"]["web_server_upstream_redirects"])

    def given_to_the_role(**variables: Any) -> Any:
        return Templar(loader=DataLoader(), variables={"web_server_on_miss": "pass"} | variables).template(
            wired
        )

    # the other one is preflight's to report, to a mirror that is nothing but a cache
    found = {"__preflight_upstream": {"file_redirects": ["http://x.test", "https://store.fleet.test"]}}
    assert given_to_the_role(**found) == ["https://store.fleet.test"]
    assert given_to_the_role(**found, web_server_on_miss="not_found") == []
    assert given_to_the_role() == []


@pytest.mark.parametrize(
    ("origin", "discovered", "index"),
    [
        ("https://origin.fleet.test", "https://u.test/simple/", "https://origin.fleet.test/simple/"),
        ("", "https://u.test/root/simple/", "https://u.test/root/simple/"),
        ("", "https://u.test/simple", "https://u.test/simple/"),
    ],
)
def test_a_redirectors_index_is_a_cache_of_what_mirrors_are_compared_with(
    origin: str, discovered: str, index: str
) -> None:
    filter_loader.add_directory(str(ROOT / "filter_plugins"))
    variables: dict[str, Any] = {
        "group_names": ["indexes"],
        "fleet_inputs": {"reference_url": origin, "on_miss": "pass"},
        "__fleet_upstream": {"index_url": discovered},
        "__preflight_upstream": {"file_origins": ["/".join(index.split("/")[:3]), "https://f.test"]},
    }

    def given_to_the_role(name: str) -> Any:
        wired = trust_as_template(wiring.TEMPLATES["indexes"][name])
        return Templar(loader=DataLoader(), variables=variables).template(wired)

    variables["web_server_on_miss"] = given_to_the_role("web_server_on_miss")
    variables["web_server_upstream_index"] = given_to_the_role("web_server_upstream_index")
    assert variables["web_server_upstream_index"] == index
    assert given_to_the_role("web_server_upstream_files") == "https://f.test/"
    # What its tree was filled from, too, where it has one; and a tree that it had once is not served.
    former = given_to_the_role("web_server_served")
    variables["group_names"].append("trees")
    variables["__fleet_config"] = {"index_url": "https://tree.test/simple/"}
    assert given_to_the_role("web_server_upstream_index") == "https://tree.test/simple/"
    assert given_to_the_role("web_server_served") == "/srv/mirror/served" != former


def test_the_usual_port_makes_no_difference_to_where_redirects_are_followed(tmp_path: Path) -> None:
    for port in ("", ":443"):
        tree = parse(
            render(tmp_path, options=PASS | {"web_server_upstream_redirects": [f"https://a.test{port}"]})
        )
        assert "|https://a[.]test)/" in map_of(tree, "$redirect_1")[1][0]


@pytest.mark.parametrize(
    ("host", "met"),
    [
        ("https://store.fleet.test", True),
        ("https://store.fleet.test:8443", True),
        ("https://192.0.2.1", True),
        ("http://store.fleet.test", False),
        ("https://store.fleet.test/", False),
        ("https://store.fleet.test|https://.*", False),
        ("https://me:secret@store.fleet.test", False),
        ("https://.*", False),
        ('https://a" 1; b "', False),
    ],
)
def test_a_redirect_is_followed_to_hosts_by_tls_only(host: str, met: bool) -> None:
    conditions = load(ROLE / "tasks/main.yml")[0]["loop"]
    (condition,) = [one["met"] for one in conditions if one["option"] == "web_server_upstream_redirects"]
    templar = Templar(loader=DataLoader(), variables={"web_server_upstream_redirects": [host]})
    assert templar.template(trust_as_template(condition)) is met
