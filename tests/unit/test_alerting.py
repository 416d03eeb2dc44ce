"""Who is told of which alert, and what the mail says: the configuration by amtool, the words by Alertmanager's own
template engine."""

from __future__ import annotations

import copy
import datetime
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from fleet_alerting import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st
from inventory_material import fleet_of

from mirrorfleet.fleet import evidence
from plugin_utils.contacts import contacts as contacts_of
from plugin_utils.documents import parse
from plugin_utils.registry import registry as registry_of

ROOT = Path(__file__).resolve().parents[2]
AMTOOL = ROOT / "build/amtool"
TEMPLATE = ROOT / "roles/monitoring_server/files/mirrorfleet.tmpl"
CONFIG = FilterModule().filters()["alertmanager_config"]
RELAY = {
    "address": "relay.example.org:587",
    "from": "fleet@example.org",
    "user": "fleet",
    "password": "Kept-Secret",
}
WINDOW = {"from": "2026-12-30T20:00:30+13:00", "until": "2027-01-02T00:30:00Z", "reason": "disks"}


FLEET: dict[str, Any] = parse("""
fleet_name: Test fleet
fleet_coordinator: {name: C, email: c@example.org, webhook: "https://c.example.org"}
fleet_agreement_version: "2026-11"
fleet_selection: {projects: [six]}
fleet_gate_project: six
fleet_staleness_limit: 86400
fleet_versions: {mirrorfleet: "0.1.0", bandersnatch: {debian-13: "8.2.0"}, nginx: {debian-13: "1.26.*"}}
mirror_mode: bandersnatch
mirror_location: {continent: OC, country: NZ, city: Auckland, latitude: -36.8, longitude: 174.8}
mirror_operator: {name: O, email: ops@example.org}
mirror_agreement: {version: "2026-11", accepted_by: A. Person, accepted_on: 2026-11-20}
""").values
GROUPS = {"all": ["one", "two", "three"], "mirrors": ["one", "two", "three"]}


def hostvars(relay: Any = RELAY, **changes: Any) -> dict[str, Any]:
    found = {
        name: copy.deepcopy(FLEET) | {"mirror_url": f"https://{name}.example.org"}
        for name in GROUPS["mirrors"]
    }
    found["one"]["mirror_operator"]["webhook"] = "https://hooks.example.org/S3cret?key=a%20b"
    found["one"] |= changes
    shared = {"fleet_mail_relay": relay} if relay else {}
    return {name: one | shared for name, one in found.items()}


def contacts(relay: Any = RELAY, **changes: Any) -> dict[str, Any]:
    return contacts_of(fleet_of(hostvars(relay, **changes), GROUPS))


def amtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AMTOOL, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(found: dict[str, Any]) -> Path:
        path = tmp_path / "alertmanager.yml"
        # Where the role puts it, Alertmanager finds it; here it lies elsewhere.
        path.write_text(json.dumps(found | {"templates": [str(TEMPLATE)]}))
        checked = amtool("check-config", path)
        assert checked.returncode == 0, checked.stderr
        return path

    return write


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["severity=operator", "mirror=one"], "operator of one"),
        (["severity=operator", "mirror=two", "copy=coordinator"], "coordinator,operator of two"),
        (["severity=coordinator", "mirror=one", "copy=operator"], "coordinator,operator of one"),
        (["severity=coordinator"], "coordinator"),
        (["severity=operator", "mirror=nobody's"], "coordinator"),
        (["severity=coordinator", "mirror=nobody's", "copy=operator"], "coordinator,nobody"),
        (["severity=other"], "coordinator"),
    ],
)
def test_alerts_go_to_the_right_person(config: Any, labels: list[str], receivers: str) -> None:
    path = config(CONFIG(contacts(mirror_maintenance=[WINDOW])))
    done = amtool("config", "routes", "test", f"--config.file={path}", *labels)
    assert (done.returncode, done.stdout.strip()) == (0, receivers), done.stderr


def test_receivers_and_their_secrets(config: Any) -> None:
    found = CONFIG(contacts())
    config(found)
    receivers = {one["name"]: one for one in found["receivers"]}
    (mail,) = receivers["operator of one"]["email_configs"]
    assert (mail["to"], mail["headers"]["Reply-To"], mail["html"]) == ("ops@example.org", "c@example.org", "")
    hook = {"url": "https://hooks.example.org/S3cret?key=a%20b", "send_resolved": True}
    assert receivers["operator of one"]["webhook_configs"] == [hook]
    assert "webhook_configs" not in receivers["operator of two"]
    assert receivers["coordinator"]["webhook_configs"][0]["url"] == "https://c.example.org/"
    assert "Kept-Secret" not in json.dumps(found)
    assert found["global"]["smtp_require_tls"] is True
    registry = json.dumps(registry_of(fleet_of(hostvars(), GROUPS)))
    assert not re.search("S3cret|webhook|Kept|relay", registry)


def test_without_a_relay_only_webhooks_are_called(config: Any) -> None:
    found = CONFIG(contacts(relay=None))
    config(found)
    assert "email_configs" not in json.dumps(found)
    assert found["global"] == {}
    assert sum("webhook_configs" in one for one in found["receivers"]) == 2


def test_a_retired_mirror_is_nobodys(config: Any) -> None:
    found = CONFIG(contacts(mirror_state="retired"))
    assert [one["name"] for one in found["receivers"]][2:] == ["operator of three", "operator of two"]


@pytest.mark.parametrize("name", ['q"uote', "back\\slash", "{{ brace }}", "a=~b", "ü", "$labels"])
def test_names_cannot_break_out_of_a_route(config: Any, name: str) -> None:
    known = contacts()
    known["mirrors"][0]["name"] = name
    path = config(CONFIG(known))
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    done = amtool(
        "config", "routes", "test", f"--config.file={path}", "severity=operator", f'mirror="{quoted}"'
    )
    assert done.stdout.strip() == f"operator of {name}", done.stderr


def muted(intervals: list[dict[str, Any]], at: datetime.datetime) -> bool:
    """By the rules of Alertmanager: years, months, days and times all match."""

    def within(one: dict[str, Any]) -> bool:
        first, last = map(int, one["days_of_month"][0].split(":"))
        (hours,) = one["times"]
        return (
            str(at.year) in one["years"]
            and str(at.month) in one["months"]
            and first <= at.day <= last
            and hours["start_time"] <= f"{at:%H:%M}" < hours["end_time"]
        )

    return any(within(one) for one in intervals)


MOMENTS = st.datetimes(
    datetime.datetime(2026, 1, 1), datetime.datetime(2028, 12, 31), timezones=st.just(datetime.UTC)
).map(lambda at: at.replace(microsecond=0))


@settings(max_examples=300, deadline=None)
@given(
    start=MOMENTS, length=st.integers(1, 92 * 86400), offset=st.floats(-0.5, 1.5), zone=st.integers(-12, 14)
)
def test_a_window_is_muted_from_its_beginning_to_its_end(
    start: datetime.datetime, length: int, offset: float, zone: int
) -> None:
    end = start + datetime.timedelta(seconds=length)
    local = datetime.timezone(datetime.timedelta(hours=zone))
    window = {"from": start.astimezone(local).isoformat(), "until": end.isoformat(), "reason": "r"}
    (named,) = CONFIG(contacts(mirror_maintenance=[window]))["time_intervals"]
    assert named["name"] == "maintenance of one"
    minute, at = datetime.timedelta(minutes=1), start + offset * (end - start)
    if start <= at < end:
        assert muted(named["time_intervals"], at)
    if at < start - minute or at >= end + minute:
        assert not muted(named["time_intervals"], at)


def test_a_window_mutes_what_an_operator_is_told_and_no_wrong_bytes(config: Any) -> None:
    found = CONFIG(contacts(mirror_maintenance=[WINDOW]))
    config(found)
    routes = found["route"]["routes"]
    mutes = [
        (route["matchers"][0], inner["receiver"])
        for route in routes
        for inner in route.get("routes", [])
        if inner.get("mute_time_intervals")
    ]
    assert mutes == [('copy="coordinator"', "coordinator"), ('severity="operator"', "operator of one")]


@pytest.mark.parametrize("name", ["group_wait", "group_interval", "repeat_interval"])
def test_a_wrong_time_is_told(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"{name} is -1; allowed: a whole number.*seconds"):
        CONFIG(contacts(), **{name: -1})


# What is mailed.

ALERT: dict[str, Any] = {
    "status": "firing",
    "labels": {
        "alertname": "MirrorFails",
        "mirror": "one",
        "severity": "operator",
        "fleet": "F",
        "monitor": "m1",
    },
    "annotations": {
        "summary": "one failed",
        "since": "then",
        "good": "before",
        "found": "this\nthat\n",
        "next": "N",
    },
    "startsAt": "2026-11-23T10:00:00Z",
    "endsAt": "2026-11-23T11:00:00Z",
}


def render(part: str, folder: Path, *alerts: dict[str, Any]) -> str:
    data = {
        "receiver": "x",
        "status": "firing" if any(one["status"] == "firing" for one in alerts) else "resolved",
        "alerts": alerts,
        "groupLabels": {"mirror": "one"},
        "commonLabels": {"fleet": "F", "mirror": "one"},
        "commonAnnotations": {},
        "externalURL": "",
    }
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    text = f'{{{{ template "mirrorfleet.{part}" . }}}}'
    done = amtool(
        "template",
        "render",
        f"--template.glob={TEMPLATE}",
        f"--template.text={text}",
        f"--template.data={path}",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def test_a_mail_has_the_evidence(tmp_path: Path) -> None:
    assert render("subject", tmp_path, ALERT, ALERT) == "[F] one: MirrorFails"
    said = render("text", tmp_path, ALERT)
    assert said.startswith(
        "MirrorFails: one failed\n\n  since      then\n  last good  before\n  seen from  m1\n"
        "  found      this\n             that\n  next       N\n"
    )


def test_a_mail_tells_what_is_over(tmp_path: Path) -> None:
    over = ALERT | {"status": "resolved"}
    assert render("subject", tmp_path, over) == "[F] resolved: one: MirrorFails"
    assert "MirrorFails: resolved at 2026-11-23 11:00:00 +0000 UTC\n  it was: one failed\n" in render(
        "text", tmp_path, over
    )


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.text(max_size=300), min_size=1, max_size=3))
def test_words_of_a_mirror_are_only_words(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the prober cleans them; one failure is one line of the mail, and none is in its head."""
    failures = [{"family": "ipv4", "check": "file", "problem": word} for word in words]
    problems = [one[2] for one in evidence.kept([], failures, 0)]
    alert = copy.deepcopy(ALERT)
    alert["annotations"]["found"] = "".join(f"{one}\n" for one in problems)
    folder = tmp_path_factory.mktemp("mail")
    said = render("text", folder, alert)
    lines = said.split("\n")
    assert len(lines) == len(render("text", folder, ALERT).split("\n")) - 2 + len(problems)
    assert all(len(line) < 250 for line in lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", said)
    assert render("subject", folder, alert) == "[F] one: MirrorFails"


def test_a_mirror_of_many_words_makes_few_time_series() -> None:
    kept: list[Any] = []
    series = set()
    for at in range(1000):
        failures = [{"family": "ipv4", "check": "file", "problem": f"word {at}"}]
        kept = evidence.kept(kept, failures, at)
        series |= {tuple(one[:3]) for one in kept}
    assert len(series) == evidence.MOST + 1
    assert kept[-1] == ("ipv4", "file", evidence.VARYING, 999)
