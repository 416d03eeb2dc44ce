"""What the scenarios' tests share: the scenario's hosts by name, and its plays run once more."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra

HOUSE = Path(__file__).parents[1]
INVENTORY = HOUSE / "molecule/inventory.py"


@dataclass
class Outcome:
    """How a play ended: exit code, all that was said, and the number of changed tasks by host."""

    code: int
    said: str

    @property
    def changed(self):
        return {name: int(count) for name, count in re.findall(r"^(\S+) +: .*changed=(\d+)", self.said, re.M)}


@dataclass
class Host:
    name: str
    ipv4: str
    ipv6: str
    shell: object

    @property
    def addresses(self):
        return (self.ipv4, self.ipv6)


class Scenario:
    """The scenario that the running tests belong to: its hosts, and the plays of one folder."""

    def __init__(self, name, folder=None):
        self.folder = folder or HOUSE / "molecule" / name
        self.environment = os.environ | {
            "ANSIBLE_CONFIG": str(HOUSE / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",  # molecule asks for colours
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_INVENTORY_ENABLED": "fleet,script",  # as .config/molecule/config.yml has it
            "MOLECULE_SCENARIO_NAME": name,
        }
        listing = json.loads(subprocess.check_output([INVENTORY], env=self.environment))
        self.variables = listing["all"]["vars"]
        self.dir = Path(self.variables["sandbox_dir"])
        self.hosts = {
            host["name"]: Host(
                host["name"],
                f"{self.variables['sandbox_ipv4_prefix']}.{host['address']}",
                f"{self.variables['sandbox_ipv6_prefix']}::{host['address']}",
                testinfra.get_host(f"ansible://{host['name']}", ansible_inventory=str(INVENTORY)),
            )
            for host in self.variables["sandbox_hosts"]
        }

    def play(self, *arguments, playbook="converge.yml", **variables):
        command = [sys.executable, "-m", "ansible", "playbook", "--inventory", INVENTORY, *arguments]
        if variables:
            command += ["--extra-vars", json.dumps(variables)]
        run = subprocess.run(
            [*command, self.folder / playbook],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(run.returncode, run.stdout + run.stderr)

    def converge(self, **variables):
        """The folder's own converge once more; it has to succeed."""
        outcome = self.play(**variables)
        assert outcome.code == 0, outcome.said
        return outcome


@pytest.fixture(scope="session")
def scenario():
    return Scenario(os.environ["MOLECULE_SCENARIO_NAME"])


@pytest.fixture(scope="module")
def role(request):
    """The same with the plays of the folder that the tests lie in, for roles that share a run (small_roles)."""
    return Scenario(os.environ["MOLECULE_SCENARIO_NAME"], request.path.parents[1])


@pytest.fixture
def me(scenario, host):
    """The host that a test is run for."""
    return scenario.hosts[host.backend.host]


@pytest.fixture
def other(scenario, host):
    """Another host: what it can reach is what anybody can."""
    return next(each for each in scenario.hosts.values() if each.name != host.backend.host)


# All at once, for each that is closed costs the whole wait.
CONNECT = """
import concurrent.futures, socket, sys
def ask(target):
    address, port = target.rsplit("/", 1)
    try:
        socket.create_connection((address, int(port)), timeout=3).close()
    except (TimeoutError, ConnectionRefusedError):
        return False
    return True
targets = sys.argv[1:]
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    print(*(target for target, is_open in zip(targets, pool.map(ask, targets)) if is_open))
"""


@pytest.fixture(scope="session")
def open_ports():
    """Of these ports of a host, those that accept a TCP connection by IPv4 and IPv6 from another host, or from
    the control node; by only one of the two is never right."""

    def ask(target, ports, source=None):
        targets = [f"{address}/{port}" for address in target.addresses for port in ports]
        if source is None:
            said = subprocess.check_output([sys.executable, "-c", CONNECT, *targets], text=True)
        else:
            said = source.shell.check_output("python3 -c %s " + " ".join(targets), CONNECT)
        by_family = [
            {port for port in ports if f"{address}/{port}" in said.split()} for address in target.addresses
        ]
        assert by_family[0] == by_family[1], f"IPv4 and IPv6 differ: {by_family}"
        return by_family[0]

    return ask


@pytest.fixture(scope="session")
def lead():
    """Has a name lead to these addresses on a host, to none without any, and the host look as its timer has it look."""

    def to(shell, name, *addresses):
        lines = "".join(f"{address} {name}\\n" for address in addresses)
        shell.check_output(
            f"sed '/ {name}$/d' /etc/hosts >/tmp/hosts && printf '{lines}' >>/tmp/hosts && cat /tmp/hosts >/etc/hosts"
            " && rm /tmp/hosts && systemctl start mirrorfleet-names.service"
        )

    return to


@pytest.fixture(scope="session")
def as_found():
    """Describes a host: everything of it that its operator could find changed, a line each."""

    def describe(shell):
        return shell.check_output("sh -c %s", (HOUSE / "molecule/as_found.sh").read_text()).splitlines()

    return describe


@pytest.fixture(scope="session")
def differences():
    """Between two descriptions: what is there no longer, and what is new."""

    def compare(before, after):
        gone, new = set(before) - set(after), set(after) - set(before)
        return [f"- {line}" for line in sorted(gone)] + [f"+ {line}" for line in sorted(new)]

    return compare


@pytest.fixture
def confined(host):
    """Runs a shell command exactly as a unit's own process would run: the same user, sandbox and limits."""

    def run(unit, command):
        service = host.check_output("systemctl cat %s", unit).partition("[Service]")[2].partition("\n[")[0]
        settings = [
            line
            for line in service.splitlines()
            if "=" in line and not line.startswith(("#", "Exec", "Type=", "Restart"))
        ]
        properties = " ".join(f"--property {shlex.quote(setting)}" for setting in settings)
        return host.run(
            f"systemd-run --quiet --wait --pipe --collect {properties} /bin/sh -c {shlex.quote(command)}"
        )

    return run
