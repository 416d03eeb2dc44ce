"""The firewall's ruleset, checked by nft itself."""

from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from fleet_firewall import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st

RENDER = FilterModule().filters()["firewall_ruleset"]
NAMES = FilterModule().filters()["firewall_names"]


def nft(text: str, tmp_path: Path, before: str = "") -> dict[str, Any]:
    """What nft understands, without touching this machine's own rules: loaded in a network namespace of its own."""
    path = tmp_path / "ruleset.nft"
    path.write_text(text)
    (tmp_path / "before.nft").write_text(before)
    script = 'cd "$1" && nft -f before.nft && nft -f ruleset.nft && nft -f ruleset.nft && nft -j list ruleset'
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", "sh", "-c", script, "sh", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rules_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [item["rule"] for item in found["nftables"] if "rule" in item]


def opened(rule: dict[str, Any]) -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """Protocol, ports and sources of a rule that accepts ports."""
    protocol = ""
    ports: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    for part in rule["expr"]:
        match = part.get("match")
        if match and match["left"].get("payload", {}).get("field") == "dport":
            protocol = match["left"]["payload"]["protocol"]
            right = match["right"]
            ports = tuple(right["set"]) if isinstance(right, dict) else (right,)
        if match and match["left"].get("payload", {}).get("field") == "saddr":
            right = match["right"]
            members = right["set"] if isinstance(right, dict) and "set" in right else [right]
            sources = tuple(
                f"{m['prefix']['addr']}/{m['prefix']['len']}" if isinstance(m, dict) else str(m)
                for m in members
            )
    return protocol, ports, sources


def test_only_what_is_named_is_open(tmp_path: Path) -> None:
    rules = [
        {"name": "web", "port": [443, 80]},
        {"name": "metrics", "port": 9100, "sources": ["192.0.2.0/24", "192.0.2.128/25", "2001:db8::/32"]},
        {"name": "h3", "port": 443, "protocol": "udp"},
        {"name": "nobody", "port": 873, "sources": []},
    ]
    found = nft(RENDER(rules, ssh_port=[22, 2222]), tmp_path)
    (chain,) = [item["chain"] for item in found["nftables"] if "chain" in item]
    assert (chain["table"], chain["hook"], chain["policy"]) == ("mirrorfleet", "input", "drop")
    accepting = {rule.get("comment"): opened(rule) for rule in rules_of(found) if rule.get("comment")}
    assert accepting == {
        "DHCPv6 client": ("udp", (546,), ("fe80::/10",)),
        "ssh": ("tcp", (22, 2222), ()),
        "web": ("tcp", (80, 443), ()),
        "metrics": ("tcp", (9100,), ("2001:db8::/32",)),
        "h3": ("udp", (443,), ()),
    }
    metrics = [opened(rule)[2] for rule in rules_of(found) if rule.get("comment") == "metrics"]
    assert metrics == [("192.0.2.0/24",), ("2001:db8::/32",)]


def test_names_are_sets_that_only_their_addresses_are_let_in_by(tmp_path: Path) -> None:
    rules = [
        {"name": "metrics", "port": 9100, "sources": ["192.0.2.7", "m.example.org", "n.example.org"]},
        {"name": "metrics", "port": 9100, "sources": ["m.example.org", "o.example.org"]},
        {"name": "rsync", "port": 873, "sources": ["m.example.org"]},
    ]
    found = nft(RENDER(rules), tmp_path)
    sources = [(rule["comment"], *opened(rule)[1:]) for rule in rules_of(found) if rule.get("comment")][2:]
    assert sources == [
        ("metrics", (9100,), ("192.0.2.7",)),
        ("metrics", (9100,), ("@tcp_9100_ipv4",)),
        ("metrics", (9100,), ("@tcp_9100_ipv6",)),
        ("rsync", (873,), ("@tcp_873_ipv4",)),
        ("rsync", (873,), ("@tcp_873_ipv6",)),
    ]
    sets = {item["set"]["name"]: item["set"] for item in found["nftables"] if "set" in item}
    assert sorted(sets) == ["tcp_873_ipv4", "tcp_873_ipv6", "tcp_9100_ipv4", "tcp_9100_ipv6"]
    assert not any("elem" in one for one in sets.values()), "nobody, until the host found them"
    use = NAMES(rules)
    assert use["lists"] == {
        "tcp_9100": ["m.example.org", "n.example.org", "o.example.org"],
        "tcp_873": ["m.example.org"],
    }
    assert NAMES([{"port": 80}, {"port": 81, "sources": ["192.0.2.7"]}])["lists"] == {}


def test_loading_replaces_the_table_and_leaves_others_alone(tmp_path: Path) -> None:
    theirs = 'table inet foreign { chain input { tcp dport 1 accept comment "theirs"; }; }\n'
    found = nft(RENDER([{"port": 80}]), tmp_path, before=theirs)
    assert {item["table"]["name"] for item in found["nftables"] if "table" in item} == {
        "foreign",
        "mirrorfleet",
    }
    comments = [rule.get("comment") for rule in rules_of(found)]
    assert comments.count("service") == comments.count("theirs") == 1


def test_ssh_stays_open_without_any_rule(tmp_path: Path) -> None:
    found = nft(RENDER([], ssh_port=2222), tmp_path)
    assert ("tcp", (2222,), ()) in [opened(rule) for rule in rules_of(found)]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("80", "rules is text"),
        ([80], "a mapping with port"),
        ([{"ports": 80}], "a mapping with port"),
        ([{"port": 80, "source": "192.0.2.0/24"}], "a mapping with port"),
        ([{"port": 0}], "rule 1.port: entry 1: is 0"),
        ([{"port": 65536}], "rule 1.port"),
        ([{"port": "80; flush ruleset"}], "rule 1.port: entry 1: is text"),
        ([{"port": True}], "rule 1.port"),
        ([{"port": []}], "rule 1.port: has 0 entries"),
        ([{"port": 80, "protocol": "tcp accept"}], "rule 1.protocol"),
        ([{"port": 80, "sources": ["0.0.0.0/0 } accept #"]}], "rule 1.sources"),
        ([{"port": 80, "sources": "192.0.2.0/24"}], "rule 1.sources: is text"),
        (
            [{"port": 80, "sources": ["m.example.org } accept #"]}],
            "rule 1.sources: entry 1: is 'm.example.org }",
        ),
        ([{"port": 80, "sources": ["localhost"]}], "a DNS name, an address, or a network"),
        ([{"port": 80, "sources": ["192.0.2.1/24"]}], "has host bits set"),
        ([{"port": 80, "name": 'x" accept; #'}], "rule 1.name"),
        ([{"port": 80, "name": "x\ny"}], "rule 1.name"),
        ([{"port": 80, "name": "$x"}], "rule 1.name"),
        ([{"port": 80}, {"port": -1}, {"port": 80, "name": ""}], "rule 3.name"),
    ],
)
def test_hostile_rules_are_refused(rules: Any, said: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        RENDER(rules)
    assert said in str(caught.value)


@pytest.mark.parametrize("ssh_port", [[], 0, "22", None, [22, 22], 70000])
def test_a_host_is_never_left_without_ssh(ssh_port: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        RENDER([], ssh_port=ssh_port)


NETWORKS = st.ip_addresses(v=4).map(lambda a: f"{a}/32") | st.ip_addresses(v=6).map(lambda a: f"{a}/128")
RULES = st.fixed_dictionaries(
    {"port": st.integers(1, 65535) | st.lists(st.integers(1, 65535), min_size=1, max_size=3, unique=True)},
    optional={
        "protocol": st.sampled_from(["tcp", "udp"]),
        "sources": st.lists(NETWORKS, max_size=3, unique=True),
        "name": st.text(max_size=20),
    },
)


@settings(max_examples=25, deadline=None)
@given(rules=st.lists(RULES, max_size=4))
def test_nft_reads_what_was_meant(
    rules: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        text = RENDER(rules)
    except AnsibleFilterError:
        return
    found = [opened(rule) for rule in rules_of(nft(text, tmp_path_factory.mktemp("nft")))]
    for rule in rules:
        ports = tuple(sorted(rule["port"] if isinstance(rule["port"], list) else [rule["port"]]))
        matching = [
            sources for protocol, p, sources in found if (protocol, p) == (rule.get("protocol", "tcp"), ports)
        ]
        if "sources" not in rule:
            assert () in matching
            continue
        networks = {ip_network(source) for sources in matching for source in sources}
        assert all(any(overlaps(ip_network(source), n) for n in networks) for source in rule["sources"])


def overlaps(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return one.version == other.version and one.overlaps(other)
