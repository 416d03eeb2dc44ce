"""After all others: what this scenario did to the hosts is undone."""

import pytest


@pytest.fixture(scope="session")
def undone(scenario):
    outcome = scenario.play(playbook="undo.yml")
    assert outcome.code == 0, outcome.said
    for host in scenario.hosts.values():  # what the tests before it masked, and so was found masked
        host.shell.check_output("systemctl --quiet unmask apt-daily-upgrade.timer")
        host.shell.check_output("systemctl --quiet enable --now apt-daily-upgrade.timer")
    return outcome


def test_a_host_that_is_given_back_is_as_it_was_found(undone, me, scenario, as_found, differences):
    before = (scenario.dir / f"{me.name}.found").read_text().splitlines()
    strange = differences(before, as_found(me.shell))
    assert not strange, "\n".join(strange)


def test_what_is_undone_is_not_undone_again(undone, scenario):
    again = scenario.play(playbook="undo.yml")
    assert again.code == 0, again.said
    assert set(again.changed.values()) == {0}
