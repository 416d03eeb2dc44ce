"""What keeps a host from becoming part of the fleet: asked of this machine, and of trees that look like others."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import host_preflight
import pytest

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'
ADDRESSES = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.0.2.7
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""
ADDRESSES_6 = """\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 02 40 00 80     eth0
fe800000000000000000000000000007 02 40 20 80     eth0
"""


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
NOWHERE = "0" * 32
ROUTES_6 = f"""\
20010db8000000000000000000000000 40 {NOWHERE} 00 {NOWHERE} 00000100 00000001 00000000 00000001     eth0
{NOWHERE} 00 {NOWHERE} 00 20010db8000000000000000000000001 00000400 00000001 00000000 00450003     eth0
{NOWHERE} 00 {NOWHERE} 00 {NOWHERE} ffffffff 00000001 00000000 00200200       lo
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system as far as the module looks at one."""
    files = {
        "etc/os-release": DEBIAN,
        "proc/net/fib_trie": ADDRESSES,
        "proc/net/if_inet6": ADDRESSES_6,
        "proc/net/route": ROUTES,
        "proc/net/ipv6_route": ROUTES_6,
        "proc/net/tcp": "  sl  local_address rem_address   st ...\n",
        "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


def look(root: Path, **params: Any) -> dict[str, Any]:
    defaults = {name: option.get("default") for name, option in host_preflight.ARGUMENTS.items()}
    return host_preflight.result_of(defaults | params, root)


def test_a_host_that_is_ready(root: Path) -> None:
    found = look(root, control_time=time.time(), ports=[80], disk=[{"path": str(root), "bytes": 1}])
    assert found["problems"] == []
    assert found["platform"] == "debian-13"
    assert found["addresses"] == ["192.0.2.7", "2001:db8::7"]
    assert abs(found["clock_offset"]) < 10


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("ID=ubuntu\nVERSION_ID='24.04'\n", "ubuntu-24"),
        ("ID=debian\n", "debian-unknown"),
        ("", "unknown-unknown"),
        ("ID=debian\nVERSION_ID=11\n", "debian-11"),
    ],
)
def test_a_platform_that_is_not_supported(text: str, platform: str, root: Path) -> None:
    (root / "etc/os-release").write_text(text)
    found = look(root)
    (problem,) = found["problems"]
    assert (problem["key"], problem["problem"]) == ("platform", f"is {platform}")
    assert problem["allowed"] == "debian-12, debian-13"


def test_the_other_platform(root: Path) -> None:
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    assert look(root)["problems"] == []


def test_everything_is_told_at_once(root: Path) -> None:
    (root / "etc/os-release").write_text("ID=fedora\nVERSION_ID=43\n")
    shutil.rmtree(root / "run")
    found = look(
        root,
        control_time=time.time() + 3600,
        disk=[{"path": str(root / "srv"), "bytes": 10**18}],
        names=["no-such-name.invalid"],
    )
    assert [problem["key"] for problem in found["problems"]] == [
        "platform",
        "systemd",
        "clock",
        f"disk at {root / 'srv'}",
        "name no-such-name.invalid",
    ]
    assert all(problem["allowed"] and problem["next_step"] for problem in found["problems"])
    assert not (root / "srv").exists()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (8_192_000_000, "8.2 GB"),
        (2 * 10**13, "20.0 TB"),
    ],
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert host_preflight.size(count) == words


def test_old_pythons() -> None:
    assert host_preflight.check_python((3, 11)) == []
    assert host_preflight.check_python((3, 11, 2)) == []
    (problem,) = host_preflight.check_python((3, 9, 2))
    assert (problem["problem"], problem["allowed"]) == ("is 3.9.2", "3.11 or newer")


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        (31.0, "is 31 seconds ahead of the control node's"),
        (-86400.0, "is 86400 seconds behind the control node's"),
        (30.0, ""),
        (-30.0, ""),
        (None, ""),
    ],
)
def test_clocks(offset: float | None, said: str) -> None:
    told = "".join(problem["problem"] for problem in host_preflight.check_clock(offset))
    assert told == said


def test_disk_counts_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/file").write_bytes(os.urandom(3_000_000))
    (tmp_path / "mirror/link").hardlink_to(tmp_path / "mirror/file")
    held = host_preflight.held(tmp_path / "mirror")
    assert 3_000_000 <= held < 3_200_000
    assert host_preflight.held(tmp_path / "absent") == 0
    free = shutil.disk_usage(tmp_path).free
    assert host_preflight.check_disk([{"path": str(tmp_path / "mirror"), "bytes": held + free // 2}]) == []
    (problem,) = host_preflight.check_disk([{"path": str(tmp_path / "mirror"), "bytes": 10**18}])
    assert "free" in problem["problem"]


def test_paths_of_one_file_system_are_counted_together(tmp_path: Path) -> None:
    share = shutil.disk_usage(tmp_path).free * 2 // 3
    one, two = ({"path": str(tmp_path / name / "deep"), "bytes": share} for name in ("one", "two"))
    assert host_preflight.check_disk([one]) == []
    (problem,) = host_preflight.check_disk([one, two])
    assert problem["key"] == f"disk at {one['path']}, {two['path']}"


LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
open("/proc/self/comm", "w").write("some-server")
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_told_with_the_process(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LISTEN, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        proc = Path("/proc")
        (problem,) = host_preflight.check_ports(proc, [port], {})
        assert problem["key"] == f"port {port}"
        assert problem["problem"] == f"is taken by some-server (process {process.pid})"
        assert "stop some-server" in problem["next_step"]
        ours = {"some-server": str(tmp_path / "our.conf")}
        assert len(host_preflight.check_ports(proc, [port], ours)) == 1
        (tmp_path / "our.conf").touch()
        assert host_preflight.check_ports(proc, [port], ours) == []
        process.communicate("")
    assert host_preflight.check_ports(proc, [port], {}) == []


def test_a_port_whose_process_cannot_be_seen(root: Path) -> None:
    listening = (
        "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
    )
    used = (
        "   1: 0100007F:0051 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
    )
    with (root / "proc/net/tcp").open("a") as table:
        table.write(listening + used)
    (problem,) = look(root, ports=[80, 81])["problems"]
    assert problem["problem"] == "is taken by a process that only root can see"
    assert problem["allowed"] == "free, or held by our own services"
    assert "sport = 80" in problem["next_step"]


def test_a_name_of_this_host(root: Path) -> None:
    """localhost says nothing about DNS: /etc/hosts of a fresh Debian maps the host's own name to loopback."""
    assert look(root, names=["localhost"])["problems"] == []


def test_names_that_lead_elsewhere(root: Path) -> None:
    (problem,) = host_preflight.check_names(["192.0.2.99"], ["192.0.2.7"])
    assert problem["problem"] == "resolves to 192.0.2.99, which is not this host"
    assert problem["allowed"] == "addresses of this host: 192.0.2.7"
    assert look(root, names=["192.0.2.7", "2001:db8::7"])["problems"] == []
    assert look(root, names=["192.0.2.99"], addresses=["192.0.2.99"])["problems"] == []
    # A name of the router's: what the resolver takes for one without asking anybody is this number.
    assert (
        look(root, names=["192.0.2.99"], addresses=["3221226083", "no-such-name.invalid"])["problems"] == []
    )
    assert len(look(root, names=["no-such-name.invalid", "a" * 64 + ".example"])["problems"]) == 2


def test_a_name_may_lead_to_the_other_hosts_that_answer_for_it(root: Path) -> None:
    """The fleet's one index, which several redirectors have."""
    shared = {"192.0.2.99": ["no-such-name.invalid", "192.0.2.99"], "192.0.2.98": ["192.0.2.99"]}
    assert look(root, names=["192.0.2.99"], shared=shared)["problems"] == []
    (problem,) = look(root, names=["192.0.2.98"], shared=shared)["problems"]
    assert problem["problem"] == "resolves to 192.0.2.98, which is not this host"


BOTH = ["ipv4", "ipv6"]


def without(table: str, root: Path) -> None:
    """Leaves of a table only what leads nowhere, or is the host's own."""
    path = root / "proc/net" / table
    kept = [
        line
        for line in path.read_text().splitlines()
        if not line.startswith(("20", "eth0")) and "eth0" not in line
    ]
    path.write_text("\n".join([*kept, ""]))


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (["if_inet6"], "has ipv6, but it has no IPv6 address that others can reach"),
        (["ipv6_route"], "has ipv6, but it has no default route for IPv6"),
    ],
)
def test_families_that_a_host_lacks_are_told_with_the_key(tables: list[str], said: str, root: Path) -> None:
    assert look(root, families=BOTH)["problems"] == []
    for table in tables:
        without(table, root)
    (problem,) = look(root, families=BOTH)["problems"]
    assert (problem["key"], problem["problem"]) == ("mirror_address_families", said)
    assert "mirror_address_families: [ipv4] in its record" in problem["next_step"]
    assert look(root, families=["ipv4"])["problems"] == []


def test_within_a_network_of_its_own_a_host_needs_no_way_out(root: Path) -> None:
    without("ipv6_route", root)
    without("route", root)
    assert len(look(root, families=BOTH)["problems"]) == 2
    assert look(root, families=BOTH, private_networks=["fd00::/8"])["problems"] == []


def test_a_kernel_that_knows_no_ipv6(root: Path) -> None:
    """Its tables may be there all the same: what counts is whether a socket can be made."""
    found = host_preflight.check_families(root / "proc", BOTH, False, lambda family: family == "ipv4")
    assert [one["problem"] for one in found] == ["has ipv6, but its kernel does not know IPv6"]
    assert host_preflight.kernel_knows("ipv4")


@pytest.mark.parametrize(
    ("private", "wanted"),
    [
        (None, ""),
        ([], "[10.0.0.0/24]"),
        (["10.0.0.0/8"], ""),
        (["10.1.0.0/16", "fd00::/8"], '[10.1.0.0/16, "fd00::/8", 10.0.0.0/24]'),
    ],
)
def test_names_that_monitors_would_refuse(private: list[str] | None, wanted: str) -> None:
    found = host_preflight.check_names(["10.0.0.5"], ["10.0.0.5"], private)
    assert bool(found) == bool(wanted)
    for problem in found:
        assert "10.0.0.5, which is no public address" in problem["problem"]
        assert "private_networks of fleet.yml" in problem["allowed"]
        assert f"private_networks: {wanted}" in problem["next_step"]


def test_what_shall_stand_in_private_networks_is_told_at_once_for_both_families() -> None:
    (problem,) = host_preflight.check_public("a.example.org", {"10.0.0.5", "fd00::5"}, [])
    assert problem["next_step"].endswith('private_networks: [10.0.0.0/24, "fd00::/64"]')


def test_files_that_the_operator_keeps(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "other").write_bytes(b"\xff")
    files = {"tls_provided_key": str(tmp_path / "key.pem")}
    assert host_preflight.check_files(files) == []
    files = {
        "tls_provided_certificate": str(tmp_path / "absent.pem"),
        "tls_provided_key": str(tmp_path / "other"),
    }
    told = {one["key"]: one["problem"] for one in host_preflight.check_files(files)}
    assert told["tls_provided_certificate"].endswith(
        "absent.pem, which cannot be read: No such file or directory"
    )
    assert told["tls_provided_key"].endswith("other, which is no PEM file")


PACKAGE = "Package: nginx\nVersion: {}\nArchitecture: all\nMaintainer: x <x@example.org>\nFilename: ./x.deb\nSize: 1\n"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index of an archive, and an apt that knows no other one and has not asked it yet."""
    archive = tmp_path / "archive"
    for folder in (
        archive,
        tmp_path / "lists/partial",
        tmp_path / "cache/archives/partial",
        tmp_path / "parts",
    ):
        folder.mkdir(parents=True)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{archive} ./\n")
    (tmp_path / "status").touch()
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "{tmp_path}/parts";\n'
        f'Dir::Etc::parts "{tmp_path}/parts";\nDir::State "{tmp_path}";\nDir::State::status "{tmp_path}/status";\n'
        f'Dir::State::lists "{tmp_path}/lists";\nDir::Cache "{tmp_path}/cache";\nDir::Log "{tmp_path}";\n'
        'APT::Sandbox::User "";\nAcquire::Languages "none";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return archive / "Packages"


def test_versions_are_those_that_the_archives_have_now(archive: Path, tmp_path: Path) -> None:
    """A fresh host has asked none yet, and one that asked long ago may be behind: its own lists stay as they are."""
    archive.write_text(PACKAGE.format("1.26.3-3") + "\n" + PACKAGE.format("2:1.27.1-1"))
    for pin in ("1.26.*", "1.26.3-3", "*", "2:1.27.*"):
        assert host_preflight.check_packages("debian-13", {"nginx": {"debian-13": pin}}) == [], pin
    (problem,) = host_preflight.check_packages(
        "debian-13", {"nginx": {"debian-13": "1.2.*", "debian-12": "1.26.*"}}
    )
    assert problem["key"] == "fleet_versions.nginx.debian-13"
    assert problem["problem"] == "is '1.2.*', which no archive of this host has"
    assert problem["allowed"] == "2:1.27.1-1, 1.26.3-3" and 'debian-13: "2:1.27.*"' in problem["next_step"]
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["partial"]


def test_an_archive_that_does_not_answer(archive: Path) -> None:
    (problem,) = host_preflight.check_packages("debian-13", {"nginx": {"debian-13": "1.26.*"}})
    assert "an archive with nginx" in problem["allowed"] and "Packages" in problem["next_step"]


def test_a_platform_without_a_pin(root: Path) -> None:
    (problem,) = look(root, programs={"bandersnatch": {"debian-12": "6.8.0"}})["problems"]
    assert problem["key"] == "fleet_versions.bandersnatch"
    assert problem["problem"] == "has no version for debian-13, which this host is"


def test_the_very_machine() -> None:
    """Whatever this machine is, it has a platform and addresses that can be bound."""
    found = look(Path("/"))
    assert "-" in found["platform"]
    for address in found["addresses"]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as bound:
            bound.bind((address, 0))


# --- what else the host offers --------------------------------------------------------------------

TABLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def socket_line(address: str, port: int, state: str, inode: int) -> str:
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 0:0 0:0 0 0 0 {inode} 1\n"


@pytest.fixture
def offering(root: Path) -> Path:
    """A host with an SSH server on 2222, a mail server, a proxy on loopback only, WireGuard and a DHCP client."""
    everybody, loopback, everybody_6 = "00000000", "0100007F", "0" * 32
    tcp = [(everybody, 2222, 1), (everybody, 25, 2), (loopback, 3128, 3)]
    udp = [(everybody, 51820, 0), (everybody, 68, 5), (everybody, 40000, 6)]
    (root / "proc/net/tcp").write_text(TABLE + "".join(socket_line(a, p, "0A", i) for a, p, i in tcp))
    (root / "proc/net/tcp6").write_text(
        TABLE + socket_line(everybody_6, 8080, "0A", 7) + socket_line("0" * 24 + "01000000", 631, "0A", 8)
    )
    (root / "proc/net/udp").write_text(TABLE + "".join(socket_line(a, p, "07", i) for a, p, i in udp))
    for pid, name, inode in ((100, "sshd", 1), (101, "master", 2), (102, "app server", 7)):
        (root / f"proc/{pid}/fd").mkdir(parents=True)
        (root / f"proc/{pid}/comm").write_text(f"{name}\n")
        (root / f"proc/{pid}/fd/3").symlink_to(f"socket:[{inode}]")
    return root


def test_what_the_firewall_would_close_is_told_in_one_sentence(offering: Path) -> None:
    (found,) = look(offering, record="mirror", opened=["80", "443"])["problems"]
    assert found["key"] == "mirror_open_ports"
    assert "25 (master, process 101), 8080 (app server, process 102), 51820/udp" in found["problem"]
    for unheard in ("2222", "3128", "631", "68", "40000"):
        assert unheard not in found["problem"], unheard
    assert 'mirror_open_ports: [25, 8080, "51820/udp"]' in found["allowed"]
    assert "mirror_other_ports: close" in found["allowed"]


@pytest.mark.parametrize(
    "decision", [{"other_ports": "close"}, {"opened": ["25", "8080", "51820/udp"]}, {"record": ""}]
)
def test_nobody_asks_what_is_decided(offering: Path, decision: dict[str, Any]) -> None:
    assert look(offering, **{"record": "origin", "opened": ["80"]} | decision)["problems"] == []


def test_some_ports_kept_and_the_rest_unsaid_is_told_of_the_rest(offering: Path) -> None:
    (found,) = look(offering, record="mirror", opened=["25"])["problems"]
    assert "8080" in found["problem"]
    assert "25 (" not in found["problem"]


def test_ssh_is_where_its_server_listens_and_where_we_came_in(
    offering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind sudo, which takes the variable away, a process above has it."""
    monkeypatch.setattr(host_preflight.os, "getpid", lambda: 300)
    for pid, parent, environment in (
        (300, 200, b"HOME=/root\0"),
        (200, 1, b"SSH_CONNECTION=192.0.2.1 5000 10.0.0.7 22\0"),
    ):
        (offering / f"proc/{pid}").mkdir()
        (offering / f"proc/{pid}/environ").write_bytes(environment)
        (offering / f"proc/{pid}/stat").write_text(f"{pid} (a ) b) S {parent} 1 1\n")
    assert look(offering)["ssh_ports"] == [22, 2222]


def nft_json(*items: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.1.3"}}, *items]})


def chain(table: str, name: str, policy: str = "accept", hook: str = "input") -> dict[str, Any]:
    at = {"family": "inet", "table": table, "name": name}
    return {"chain": at | {"type": "filter", "hook": hook, "prio": 0, "policy": policy}}


def rule(table: str, name: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": table, "chain": name, "expr": list(expressions)}}


MATCH = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}
OURS = {"table": {"family": "inet", "name": "mirrorfleet"}}


@pytest.mark.parametrize(
    ("ruleset", "closing"),
    [
        ("", []),
        (nft_json(chain("f", "i", "drop")), ["inet f i"]),
        (nft_json(chain("f", "i", "drop", "forward")), []),
        (nft_json(chain("f", "i"), rule("f", "i", {"counter": {}}, {"reject": {"type": "icmpx"}})), ["inet f i"]),
        (nft_json(chain("f", "i"), rule("f", "i", {"xt": {"type": "target", "name": "REJECT"}})), ["inet f i"]),
        (nft_json(chain("fail2ban", "i"), rule("fail2ban", "i", MATCH, {"drop": None})), []),
        (nft_json(OURS, chain("mirrorfleet", "input", "drop")), []),
    ],
)  # fmt: skip
def test_a_firewall_of_anothers_is_one_that_drops_what_it_does_not_name(
    ruleset: str, closing: list[str]
) -> None:
    assert host_preflight.closing_by_nft(ruleset) == (closing, "mirrorfleet" in ruleset)


@pytest.mark.parametrize(
    ("saved", "closing"),
    [
        ("", []),
        (":INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n", []),
        (":INPUT DROP [0:0]\n", ["ip filter INPUT"]),
        (":INPUT ACCEPT [0:0]\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n", ["ip filter INPUT"]),
    ],
)
def test_so_is_one_that_iptables_knows_where_nft_is_not_installed(saved: str, closing: list[str]) -> None:
    assert host_preflight.closing_by_iptables(saved, "ip") == closing


def test_what_becomes_of_another_firewall_is_asked_until_it_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        host_preflight,
        "said",
        lambda *command: nft_json(chain("f", "i", "drop")) if command[0] == "nft" else "",
    )
    (found,) = look(root, record="redirector")["problems"]
    assert (found["key"], found["allowed"]) == ("redirector_other_firewall", "keep or replace")
    assert "inet f i" in found["problem"]
    told = look(root, record="redirector", other_firewall="replace")
    assert (told["problems"], told["closing_chains"]) == ([], ["inet f i"])
