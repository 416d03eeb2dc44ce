"""The served tree as the next tier takes it, by a real rsync over the network; and who else gets what."""

import shlex
import subprocess

import pytest

SERVED = "/srv/mirror/served"
UNIT = "mirror-rsync.service"
LISTED = "cd {} && find . ! -name .unfinished -printf '%p %y %l %T@ %m\\n' | sort && sha256sum packages/alpha-1.0.whl"

# One connection for each address and more, each as far as the module; what the daemon says last to each of them.
CONNECT = """
import socket, sys
answers, held = [], []
for _ in range(int(sys.argv[2])):
    connection = socket.create_connection((sys.argv[1], 873), timeout=20)
    held.append(connection)
    stream = connection.makefile("rwb")
    stream.readline()
    stream.write(b"@RSYNCD: 31.0 md5\\nmirror\\n")
    stream.flush()
    answers.append(stream.readline().decode().strip())
print(*answers, sep="\\n")
"""


def url(address, path=""):
    return f"rsync://{f'[{address}]' if ':' in address else address}/{path}"


@pytest.fixture
def take(me, other):
    """Runs a real client on the other host against this one's module."""

    def run(path, *options, address=me.ipv4, to="/tmp/taken"):
        return other.shell.run(
            f"timeout 60 rsync {' '.join(options)} --contimeout=10 {url(address, path)} {to} 2>&1"
        )

    return run


def test_the_next_tier_gets_the_tree_as_it_is(host, me, other, take):
    for address in me.addresses:
        other.shell.check_output("rm -rf /tmp/taken")
        done = take("mirror/", "--archive", "--exclude=.unfinished", address=address)
        assert done.succeeded, done.stdout
        taken = other.shell.check_output(LISTED.format("/tmp/taken"))
        assert "cur l s-1" in taken
        assert taken == host.check_output(LISTED.format(SERVED))


def test_only_what_everybody_may_read_is_given(take):
    assert "Permission denied" in take("mirror/packages/.unfinished").stdout


def test_links_lead_nowhere_outside_the_tree(other, take):
    other.shell.check_output("rm -rf /tmp/taken")
    take("mirror/out", "--copy-links")
    take("mirror/../../../etc/passwd")
    assert not other.shell.file("/tmp/taken").exists
    assert take("mirror/pages/alpha/cur/index.html").succeeded


def test_nothing_can_be_written(host, me, other):
    said = other.shell.run(f"timeout 60 rsync /etc/hostname {url(me.ipv4, 'mirror/x')} 2>&1")
    assert said.failed and "read only" in said.stdout
    said = other.shell.run(
        f"mkdir -p /tmp/empty && timeout 60 rsync -r --delete /tmp/empty/ {url(me.ipv4, 'mirror/')} 2>&1"
    )
    assert said.failed and "read only" in said.stdout
    assert host.file(f"{SERVED}/packages/alpha-1.0.whl").exists


def test_the_module_is_not_listed(take):
    done = take("", to="")
    assert (done.rc, done.stdout) == (0, "")


def test_nobody_has_the_whole_tree_hashed(take):
    """Which would cost its owner more than whoever asks."""
    done = take("mirror/", "--archive", "--checksum", "--dry-run", to="/tmp/hashed/")
    assert done.failed and "refuse --checksum" in done.stdout


def test_strangers_are_refused(me):
    """The control node, which reaches the port: by the daemon, not by a firewall."""
    for address in me.addresses:
        done = subprocess.run(
            ["rsync", "--contimeout=10", url(address, "mirror/")],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode != 0
        assert "Unknown module 'mirror'" in done.stdout + done.stderr
        assert "packages" not in done.stdout


def test_who_moves_gets_the_tree_at_the_new_address_alone(me, other, take, lead):
    """By the next connection: nothing is restarted."""
    name = f"{other.name}.fleet.test"
    try:
        lead(me.shell, name, other.ipv4, "2001:db8::1")
        assert take("mirror/").succeeded
        assert "Unknown module 'mirror'" in take("mirror/", address=me.ipv6).stdout
    finally:
        lead(me.shell, name)
    assert take("mirror/", address=me.ipv6).succeeded


def test_who_comes_when_all_connections_are_taken_is_told_so(me, other):
    answers = other.shell.check_output("python3 -c %s %s 3", CONNECT, me.ipv4).splitlines()
    assert answers[:2] == ["@RSYNCD: OK"] * 2
    assert "max connections (2) reached" in answers[2]


def test_the_daemon_is_nobody_and_sees_nothing_but_the_tree(host):
    service = host.service(UNIT)
    assert service.is_running and service.is_enabled
    process = host.check_output("systemctl show --property MainPID --value %s", UNIT)
    assert host.check_output("ps --no-headers -o user:20 -p %s", process) == "mirror-rsync"
    assert host.user("mirror-rsync").shell == "/usr/sbin/nologin"
    # What runs exactly as the daemon does; not with its runtime directory, which would be removed with the command.
    unit = host.check_output("systemctl cat %s", UNIT).partition("[Service]")[2].partition("\n[")[0]
    settings = [
        line
        for line in unit.splitlines()
        if "=" in line and not line.startswith(("#", "Exec", "Restart", "Runtime"))
    ]
    said = host.check_output(
        f"systemd-run --quiet --wait --pipe --collect {' '.join('--property ' + shlex.quote(s) for s in settings)}"
        " /usr/bin/sh -c 'find / -maxdepth 1; find /etc /srv /run /tmp -type f;"
        f" touch /x /tmp/x {SERVED}/x /usr/x; :' 2>&1"
    )
    seen = {line for line in said.splitlines() if line.startswith("/") and not line.startswith(f"{SERVED}/")}
    assert seen - {"/lib64", "/sys", "/proc", "/dev", "/run/systemd/journal/dev-log"} == {
        "/", "/etc", "/lib", "/run", "/srv", "/tmp", "/usr", "/var",
        "/etc/ld.so.cache", "/etc/mirrorfleet/rsync/rsyncd.conf",
    }  # fmt: skip
    assert said.count("touch: cannot touch") == 3, said
    assert host.run(f"systemd-analyze security --no-pager --threshold=25 {UNIT}").succeeded


# --- last, for it changes what the other tests look at ---


@pytest.fixture(scope="module")
def story(role, open_ports):
    """Nobody may take the tree any longer; then somebody may, and what was tampered with meanwhile is as declared."""
    role.converge(rsync_server_clients=[])
    closed = {host.name: open_ports(host, [873]) for host in role.hosts.values()}
    for host in role.hosts.values():
        host.shell.check_output(
            "sed -i 's/read only = yes/read only = no/' /etc/mirrorfleet/rsync/rsyncd.conf;"
            f"sed -i 's/^User=.*/User=root/' /etc/systemd/system/{UNIT}"
        )
    role.converge()
    return closed


def test_without_clients_nothing_listens(story, me):
    assert story[me.name] == set()


def test_it_comes_back_as_declared(story, host, me, other, take):
    test_nothing_can_be_written(host, me, other)
    test_the_daemon_is_nobody_and_sees_nothing_but_the_tree(host)
    test_the_next_tier_gets_the_tree_as_it_is(host, me, other, take)
