"""tests/faults on each platform: every fault of every mode, and a hundred kills between them (make test-long: more)."""

from concurrent.futures import ThreadPoolExecutor

import pytest

# Of each of the two kinds on each of the two platforms.
KILLS = 24
# After each fault pip and uv ask one host by JSON, the other by HTML.
FORMATS = {"debian-13": "json", "debian-12": "html"}
COMMAND = (
    f"cd /srv/faults && KILLS={KILLS} CLIENTS_ASK_FOR=%s"
    " NGINX_CONFIGURATION=/srv/faults/nginx/Debian-$(cut -d. -f1 /etc/debian_version)"
    " PYTHONPATH=site:src:tests"
    " COLUMNS=200"
    " /opt/bandersnatch/current/bin/python -m pytest -q -p no:cacheprovider -c /dev/null --rootdir=/srv/faults"
    " --import-mode=importlib --durations=10 --show-capture=stdout tests/faults 2>&1"
)


@pytest.fixture(scope="session")
def outcomes(scenario):
    """On all hosts at once."""
    with ThreadPoolExecutor() as pool:
        runs = pool.map(lambda each: each.shell.run(COMMAND, FORMATS[each.name]), scenario.hosts.values())
        return dict(zip(scenario.hosts, runs, strict=True))


def test_every_fault_is_survived(outcomes, me):
    outcome = outcomes[me.name]
    why = [line for line in outcome.stdout.splitlines() if line.startswith(("E  ", "KILL_SEED", "killed:"))]
    print("\n".join(why), outcome.stdout[-3000:], sep="\n")
    assert outcome.rc == 0
