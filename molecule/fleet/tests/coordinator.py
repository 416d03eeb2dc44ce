"""The local fleet under test: the commands a coordinator types, and a client's view of what they did."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "build/fleet-inventory"
CA = "/etc/ssl/certs/ca-certificates.crt"
# Not what molecule or make sets: a coordinator's shell has none of it.
OTHERS = ("ANSIBLE_", "MOLECULE_", "SANDBOX_", "PY_COLORS", "FORCE_COLOR")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(OTHERS)},
    "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_INVENTORY": str(INVENTORY / "fleet.yml"),
    "ANSIBLE_NOCOLOR": "1",
    "SANDBOX_NAME": "fleet",
    "SANDBOX_IPV4": "10.89.99",
    "SANDBOX_IPV6": "fd00:89:99",
    "SANDBOX_BUILD": str(ROOT / "build"),
    "SANDBOX_INVENTORY": str(INVENTORY / "fleet.yml"),
}


class Run:
    """One finished ansible-playbook."""

    def __init__(self, code: int, output: str) -> None:
        self.code, self.output = code, output

    @property
    def changed(self) -> dict[str, int]:
        return {
            h: int(n) for h, n in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.output, re.MULTILINE)
        }

    @property
    def drift(self) -> str:
        """The tasks that changed something, with what they said."""
        tasks = re.split(r"^(?=TASK |RUNNING HANDLER )", self.output, flags=re.MULTILINE)
        return "".join(task for task in tasks if re.search(r"^changed: ", task, re.MULTILINE))

    def ok(self) -> "Run":
        assert self.code == 0, self.output[-6000:]
        return self


def playbook(
    name: str,
    *arguments: str,
    kill_after: float | None = None,
    kill_when: Callable[[], bool] | None = None,
    then: Callable[[], object] | None = None,
) -> Run:
    """ansible-playbook playbooks/NAME.yml; SIGKILL to all of it after so many seconds, or when something is so.

    `then` is done at that moment instead, and the run goes on.
    """
    process = subprocess.Popen(
        ["ansible-playbook", f"playbooks/{name}.yml", *arguments],
        cwd=ROOT, env=ENVIRONMENT, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if kill_when:
        # Its output is little until then, so that the pipe does not fill.
        while process.poll() is None and not kill_when():
            time.sleep(1)
        then() if then else os.killpg(process.pid, 9)
    try:
        output, _ = process.communicate(timeout=kill_after or 900)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        assert kill_after is not None, f"{name} took over 15 minutes:\n{output[-6000:]}"
    # What a failed test shows, here and of CI's log.
    print(*output.splitlines()[-25:], sep="\n")
    return Run(process.returncode, output)


def demo(verb: str) -> Run:
    """What `make demo` and `make demo-down` run, for this fleet."""
    done = subprocess.run(
        ["playbooks/demo.sh", verb], cwd=ROOT, env=ENVIRONMENT, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout)


@contextmanager
def status_page(browser: Path):
    """`make demo-page`, and the address that it opens in the browser that this machine's user prefers."""
    opened = browser.with_name("opened")
    browser.write_text(f'#!/bin/sh\necho "$1" >{opened}\n')
    browser.chmod(0o755)
    process = subprocess.Popen(
        # Ctrl-C is heard, also where the tests were started by a shell that has them ignore it: in the background.
        ["env", "--default-signal=INT", "make", "-s", "demo-page"],
        cwd=ROOT,
        env=ENVIRONMENT | {"BROWSER": str(browser)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not (opened.exists() and opened.read_text().strip()):
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it opened nothing"
            time.sleep(0.1)
        yield opened.read_text().strip()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)


def add_host(
    name: str, address: int, platform: str = "debian-13", disk: str = "", aliases: Sequence[str] = ()
) -> Path:
    """What makes it a host of the local fleet."""
    path = INVENTORY / f"host_vars/{name}.yml"
    host = {"name": name, "platform": platform, "address": address, "disk": disk, "aliases": [*aliases]}
    path.write_text(yaml.safe_dump({"sandbox_host": host}))
    return path


def add_mirror(name: str, address: int, platform: str = "debian-13", disk: str = "") -> list[Path]:
    """What adds a mirror: one record, a copy of another's with its own names. Beside it, its host here."""
    record = (INVENTORY / "mirrors/mirror1.yml").read_text()
    path = INVENTORY / f"mirrors/{name}.yml"
    path.write_text(record.replace("mirror1", name).replace("Volunteer 1", name))
    return [path, add_host(name, address, platform, disk)]


@contextmanager
def edited(path: Path, old: str, new: str):
    """A file of the inventory with a text replaced, for a while."""
    before = path.read_text()
    assert old in before, f"{path} has no {old!r}"
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


def on(name: str):
    """A host of the fleet, looked at by testinfra over SSH."""
    config = str(ROOT / "build/fleet/ssh_config")
    said = subprocess.check_output(["ssh", "-G", "-F", config, name], text=True)
    return testinfra.get_host(f"ssh://{name}", ssh_config=config, sudo="\nuser root\n" not in f"\n{said}")


# What only a run of ours changes: packages, accounts, files, and which process each service has had since when. What
# a host does by itself is left out: syncs, their logs, and services that others start for a moment.
TOUCHED = r"""
export LC_ALL=C
dpkg-query --show --showformat='package ${Package} ${Version} ${db:Status-Status}\n'
getent passwd; getent group
find /etc /opt /root /usr/local -xdev \( -name __pycache__ -o -name .ansible -o -name .cache \) -prune -o \
    -type f -printf 'file %p %m %u %g %T@ ' -exec sha256sum {} \; -o -printf '%y %p %m %u %g %l\n'
systemctl list-unit-files --no-pager --no-legend --plain | grep -vw transient
systemctl list-units --no-pager --no-legend --plain --type=service --state=running | awk '{print $1}' |
    grep -vE '^(user@|session-|run-|systemd-(hostnamed|timedated|localed))' |
    while read -r unit; do
        echo "service $unit" $(systemctl show --property=MainPID,ExecMainStartTimestamp "$unit")
    done
nft list ruleset 2>/dev/null | sed 's/counter packets.*//'
"""


def touched(*names: str) -> dict[str, list[str]]:
    """How hosts are, by what a run of ours could have changed there, whatever its recap says."""
    with ThreadPoolExecutor(len(names)) as pool:
        return {
            name: said.splitlines()
            for name, said in zip(
                names, pool.map(lambda name: on(name).check_output("sh -c %s", TOUCHED), names), strict=True
            )
        }


@contextmanager
def far_away(name: str, milliseconds: int = 200):
    """A host that everything needs so long to come from, for a while."""
    path = INVENTORY / f"host_vars/{name}.yml"
    try:
        with edited(path, "{name:", f"{{delay: {milliseconds}, name:"):
            playbook("sandbox").ok()
            yield
    finally:
        playbook("sandbox").ok()


# As the role sandbox has it.
AS_ROOT = [*([] if os.geteuid() == 0 else ["sudo"]), "env", f"CONTAINERS_CONF={ROOT}/build/containers.conf"]
HOME = "/home/fleet"
# A person's shell, whose variables are for the person's own programs: none of them is for a mirror, nor for its gate.
A_PERSONS = {
    "LANG": "C.UTF-8",
    "ANSIBLE_CONFIG": f"{HOME}/mirrorfleet/ansible.cfg",
    "ANSIBLE_INVENTORY": f"{HOME}/fleet/fleet.yml",
    "ANSIBLE_NOCOLOR": "1",
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    # The index of the person's pip, which preflight looks at from here, is the one thing that is reached.
    "no_proxy": ".org",
    **dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), CA),
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_USER": "1",
}


class OtherControlNode:
    """Another person's, who is not root: a Debian 13 with the newest ansible-core, own ~/.ssh and own inventory."""

    def __init__(self) -> None:
        subprocess.run(
            [*AS_ROOT, ROOT / "roles/sandbox/files/host.sh", "fleet", (ROOT / "build/fleet").resolve(),
             "control.fleet.test", "localhost/mirrorfleet/debian-13", "10.89.99", "fd00:89:99", "50",
             "", "", "fleet", "22", "no", "",
             "ipv4 ipv6", "", ""],
            input=(ROOT / "build/fleet/id_ed25519.pub").read_bytes(), stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        listed = subprocess.check_output(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT
        )
        files = b"\0".join(name for name in listed.split(b"\0") if (ROOT / os.fsdecode(name)).is_file())
        self.unpack("mirrorfleet", "--null", "--files-from=-", folder=ROOT, given=files)
        self.unpack(".ssh", "id_ed25519", "known_hosts", folder=ROOT / "build/fleet")
        self.unpack("private", ".", folder=ROOT / "build/fleet/private")
        self.unpack("fleet", "fleet.yml", "mirrors", folder=INVENTORY)
        self.write(".ssh/config", self.ssh_config())
        self.write("fleet/group_vars/all.yml", self.variables())
        make = (
            "sudo apt-get -qq update && sudo apt-get -qq install -y --no-install-recommends make >/dev/null"
        )
        setup = "make -C mirrorfleet setup LOCK=requirements/newest-playbooks.txt"
        self.run(f"{make} && {setup}", {"LANG": "C.UTF-8"}).ok()

    @staticmethod
    def ssh_config() -> str:
        """What a person would have typed: nothing of the folder that the local fleet's own has."""
        text = (ROOT / "build/fleet/ssh_config").read_text()
        return re.sub(r"^ +(Control|User(Known|Hosts)|IdentityFile).*\n", "", text, flags=re.MULTILINE)

    @staticmethod
    def variables() -> str:
        found = {}
        for path in sorted((INVENTORY / "group_vars/all").glob("*.yml")):
            found |= yaml.safe_load(path.read_text())
        ours = {key: value for key, value in found.items() if not key.startswith(("sandbox_", "demo_"))}
        return yaml.safe_dump(ours | {"fleet_private_dir": "~/private"})

    def unpack(self, target: str, *what: str, folder: Path, given: bytes = b"") -> None:
        packed = subprocess.run(
            ["tar", "--create", "--directory", folder, *what], input=given, capture_output=True, check=True
        ).stdout
        self.run(f"mkdir -p -m 0700 {target} && tar -x -C {target}", given=packed).ok()

    def write(self, path: str, text: str) -> None:
        self.run(f'mkdir -p "$(dirname {path})" && cat >{path}', given=text.encode()).ok()

    def run(self, command: str, environment: dict[str, str] | None = None, given: bytes = b"") -> Run:
        options = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        done = subprocess.run(
            [*AS_ROOT, "podman", "exec", "--interactive", "--user", "fleet", "--workdir", HOME, *options,
             "fleet-control", "sh", "-c", command],
            input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout.decode())

    def playbook(self, name: str, *arguments: str) -> Run:
        """In no folder of the checkout's."""
        house = f"{HOME}/mirrorfleet"
        typed = f"ansible-playbook {house}/playbooks/{name}.yml {shlex.join(arguments)}"
        return self.run(f"cd /tmp && . {house}/.venv/bin/activate && {typed}", A_PERSONS)


def make_lived_in(name: str) -> None:
    """A host as a volunteer has it of a cloud's image: a web server of their own, a firewall that closes what it does
    not name, and updates that come by themselves and reboot it."""
    on(name).check_output("sh -c %s", LIVED_IN)


LIVED_IN = """
set -e
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nftables unattended-upgrades >&2
echo 'Unattended-Upgrade::Automatic-Reboot "true";' >/etc/apt/apt.conf.d/52unattended-upgrades-local
cat >/etc/systemd/system/wiki.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind :: 8080
[Install]
WantedBy=multi-user.target
UNIT
cat >/etc/nftables.conf <<'RULES'
#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto { icmp, icmpv6 } accept
        tcp dport { 22, 8080 } accept
    }
}
RULES
systemctl --quiet enable --now wiki.service nftables.service
"""


class Client:
    """The client host, as everybody who types `pip install` has one."""

    def __init__(self, host) -> None:
        self.host = host

    def run(self, command: str) -> str:
        done = self.host.run(command)
        assert done.rc == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def listed(self, redirector: str = "redirector") -> list[str]:
        return self.run(f"curl -sSf https://{redirector}.fleet.test/mirrors.txt").split()

    def until(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for what the monitor's rounds and an audit bring about."""
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, json.dumps(self.document(), indent=1)
            time.sleep(1)

    def document(self) -> dict:
        return json.loads(self.run("curl -sSf https://redirector.fleet.test/mirrors.json"))

    def entry(self, mirror: str) -> dict:
        return next(m for m in self.document()["mirrors"] if m["name"] == mirror)

    def routed(self, path: str) -> list[str]:
        """To whom the one index would send it for a file, in this order."""
        told = self.run(f"curl -sSf 'https://pypi.fleet.test/route?file={path}'")
        return [name for name in json.loads(told)["candidates"] if name] or [""]

    def status(self, url: str, *options: str) -> int:
        return int(
            self.host.run(f"curl -s -o /dev/null -w '%{{http_code}}' {' '.join(options)} '{url}'").stdout
        )


LOOP = """
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
: >/tmp/loop.good; : >/tmp/loop.bad; rm -f /tmp/loop.stop
end=$(($(date +%s) + 900))
while [ ! -e /tmp/loop.stop ] && [ "$(date +%s)" -lt $end ]; do
    # Every listed mirror in turn, from a list as old as a client's may be; and the one index, with a retry, for its
    # nginx closes connections that are idle when routes change.
    curl -sSf https://redirector.fleet.test/mirrors.txt >/tmp/loop.list
    for index in $(cat /tmp/loop.list) https://pypi.fleet.test/simple/; do
        case $index in *pypi.*) retries=1 ;; *) retries=0 ;; esac
        if python3 -m pip --isolated --disable-pip-version-check install --quiet --no-cache-dir --no-deps \\
            --retries $retries --cert CA --index-url "$index" --target "$folder/target" --upgrade six \\
            >/tmp/loop.out 2>&1
        then echo "$index" >>/tmp/loop.good
        else { date; echo "$index"; cat /tmp/loop.out; } >>/tmp/loop.bad; fi
    done
done
""".replace("CA", CA)


@contextmanager
def pip_in_a_loop(client: Client):
    """pip installs from the listed mirrors, one after the other without retries, until the block ends; bounded."""
    client.run(f"cat >/tmp/loop.sh <<'END'\n{LOOP}\nEND")
    client.run("systemd-run --quiet --unit pip-loop --collect sh /tmp/loop.sh")
    try:
        yield
    finally:
        client.run("touch /tmp/loop.stop")
        for _ in range(120):
            if client.host.run("systemctl is-active --quiet pip-loop").rc != 0:
                break
            time.sleep(0.5)
    bad = client.run("cat /tmp/loop.bad")
    good = client.run("cat /tmp/loop.good").split()
    assert bad == "", f"{len(good)} installs succeeded, and these failed:\n{bad}"
    assert len(good) > 5, "too few installs to say anything"


# The file system of its programs has room for nothing more, as where somebody's logs have filled it.
FULL_DISK = """
set -e
mkdir /tmp/programs && cp -a /opt/mirrorfleet/. /tmp/programs
mount -t tmpfs -o mode=0755,size=$(($(du -sk /opt/mirrorfleet | cut -f1) + 2048))k tmpfs /opt/mirrorfleet
cp -a /tmp/programs/. /opt/mirrorfleet && rm -r /tmp/programs
"""


@contextmanager
def full_disk(name: str):
    on(name).check_output("sh -c %s", FULL_DISK)
    try:
        yield
    finally:
        on(name).check_output("umount --lazy /opt/mirrorfleet")


def power(name: str, verb: str) -> None:
    """`kill` or `start` a host, as its provider's power does."""
    subprocess.run([*AS_ROOT, "podman", verb, f"fleet-{name}"], stdout=subprocess.DEVNULL, check=True)


def copy_locks(target: Path) -> Path:
    shutil.copytree(ROOT / "requirements", target)
    return target


def release(folder: Path, version: str, files: dict[str, str] | None = None) -> Path:
    """A release of our own programs with that version, some of its files replaced; the folder of its wheel."""
    source, wheels = folder / "source", folder / "wheels"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    package = source / "src/mirrorfleet"
    (package / "__init__.py").write_text(f'"""A release."""\n__version__ = "{version}"\n')
    for name, text in (files or {}).items():
        assert (package / name).is_file(), f"{name} is no file of ours"
        (package / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        wheels,
        source,
    ]
    subprocess.run(command, check=True)
    return wheels


@contextmanager
def nginx_patched(*names: str):
    """Offers hosts a patched nginx, for as long as it lasts; the version that each runs before."""
    try:
        for name in names:
            done = on(name).run("sh -c %s", (ROOT / "molecule/patched_nginx.sh").read_text())
            assert done.rc == 0, done.stderr
        yield {name: on(name).package("nginx").version for name in names}
    finally:
        for name in names:
            on(name).run("rm -rf /srv/patched /etc/apt/sources.list.d/patched.list")
