"""The verb list: its documents are what they say they are, by the tools that read them."""

from __future__ import annotations

import calendar
import json
import os
import subprocess
import sys
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listing_material import broken, record, registry
from site_material import Site, health

from mirrorfleet.common.schema import InvalidDocumentError, checker, compile_schema, schema, validate
from mirrorfleet.fleet import documents
from mirrorfleet.fleet.health import read
from mirrorfleet.site import publish

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_all_documents_are_published(site: Site) -> None:
    assert site.publish() == 0
    site.listed_for(days=40)
    assert site.publish() == 0
    document = json.loads(site.read("mirrors.json"))
    jsonschema.validate(document, schema("mirrors"), jsonschema.Draft202012Validator)
    one = document["mirrors"][0]
    assert (one["listed"], one["code"], one["score"], one["availability"]) == (True, "listed", 4.0, 0.8333)
    assert "person@example.org" not in "".join(path.read_text() for path in site.documents.rglob("*.*"))
    assert site.read("mirrors.txt") == "https://one.example.org/simple/\nhttps://two.example.org/simple/\n"
    assert json.loads(site.read("mirrors.schema.json")) == schema("mirrors")
    assert sorted(path.name for path in site.documents.iterdir()) == [
        "feed.atom", "icon.svg", "index.html", "metrics-targets.json", "mirror", "mirrors-ipv4.txt", "mirrors-ipv6.txt",
        "mirrors.json", "mirrors.schema.json", "mirrors.txt", "mirrors.zone", "pip.conf", "probe-targets.json",
        "sort.js", "style.css", "uv.toml",
    ]  # fmt: skip


def written(site: Site) -> dict[str, tuple[int, int]]:
    """Each document by what changes when it is written anew; a look at it changes the time of access."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in site.documents.rglob("*")}


def test_publishing_again_changes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.publish() == 0
    before = written(site)
    assert site.publish() == 0
    assert written(site) == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["changed"] == []


def test_a_run_that_meets_another_takes_its_turn(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["flock", str(site.folder / "state.lock"), "sh", "-c", "echo held; sleep 1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with monkeypatch.context() as impatient:
            impatient.setattr(publish, "PATIENCE", 0.2)
            assert site.publish() == 3
        assert not site.documents.exists()
        assert site.publish() == 0
        assert other.poll() == 0


def test_lists_for_one_family_name_who_claims_it(site: Site) -> None:
    site.registry["mirrors"][0]["address_families"] = ["ipv6"]
    assert site.publish() == 0
    assert site.read("mirrors-ipv4.txt") == "https://two.example.org/simple/\n"
    assert site.read("mirrors-ipv6.txt") == site.read("mirrors.txt")


def lose_ipv6(site: Site, name: str = "one") -> None:
    """It is well over IPv4 only."""
    refused = "connection over ipv6: connection refused"
    site.health["mirrors"][name] |= {
        "good": 0, "bad": 3, "problem": refused, "addresses": ["192.0.2.1", "2001:db8::1"],
        "rounds": {"ipv4": {"good": 9, "bad": 0, "problem": ""}, "ipv6": {"good": 0, "bad": 3, "problem": refused}},
    }  # fmt: skip


def test_a_family_that_fails_is_withdrawn_in_every_document_and_comes_back(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.publish()
    lose_ipv6(site)
    capsys.readouterr()
    assert site.publish() == 0
    out, err = capsys.readouterr()
    assert "one over IPv6 left: connection over ipv6: connection refused\n" in err
    assert json.loads(out.splitlines()[-1])["events"] == ["one over IPv6 left"]
    document = json.loads(site.read("mirrors.json"))
    jsonschema.validate(document, schema("mirrors"), jsonschema.Draft202012Validator)
    one, two = document["mirrors"]
    assert (one["listed"], one["address_families"]) == (True, ["ipv4"])
    (withdrawn,) = one["withdrawn"]
    assert withdrawn == {
        "family": "ipv6", "code": "failing", "reason": "connection over ipv6: connection refused",
        "since": withdrawn["since"], "next": "returns after 5 good rounds",
    }  # fmt: skip
    assert ("withdrawn" in two, two["address_families"]) == (False, ["ipv4", "ipv6"])
    assert site.read("mirrors-ipv4.txt") == site.read("mirrors.txt")
    assert site.read("mirrors-ipv6.txt") == "https://two.example.org/simple/\n"
    zone = site.read("mirrors.zone").splitlines()
    # Its name has addresses of both families: the letter leads to those that are well.
    assert [line for line in zone if line.startswith("a ")] == ["a IN A 192.0.2.1"]
    assert "b IN CNAME two.example.org." in zone
    assert {line.split(" IN ")[1] for line in zone if line.startswith("continent")} == {
        "A 192.0.2.1", "A 192.0.2.7", "AAAA 2001:db8::7"
    }  # fmt: skip
    assert '4<span class="next bad">not by IPv6</span>' in site.read("index.html")
    page = site.read("mirror/one.html")
    assert '<dt>Reachable by</dt><dd>IPv4<br/><span class="bad">not by IPv6</span> since' in page
    assert (
        "<bdi>connection over ipv6: connection refused</bdi>. It <bdi>returns after 5 good rounds</bdi>"
        in page
    )
    assert "left over IPv6: <bdi>connection over ipv6" in page
    assert "one over IPv6 left" in site.read("feed.atom")
    assert "two.example.org" in site.read("pip.conf")  # what "use it" names is whole where one is
    site.health["mirrors"]["one"] |= {
        "good": 5, "bad": 0, "problem": "",
        "rounds": {family: {"good": 5, "bad": 0, "problem": ""} for family in ("ipv4", "ipv6")},
        "audit": {"passed_at": site.now + 9, "tampered_at": None, "problem": ""},
    }  # fmt: skip
    assert site.publish() == 0
    assert json.loads(site.read("mirrors.json"))["mirrors"][0]["address_families"] == ["ipv4", "ipv6"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["events"] == ["one over IPv6 returned"]


def test_without_its_memory_the_published_lists_say_for_which_families(site: Site) -> None:
    site.publish()
    lose_ipv6(site)
    site.publish()
    (site.folder / "state.json").unlink()
    site.config["health"] = [str(site.folder / "nothing.json")]  # and nobody knows better
    assert site.publish() == 1
    assert [one["address_families"] for one in json.loads(site.read("mirrors.json"))["mirrors"]] == [
        ["ipv4"], ["ipv4", "ipv6"]
    ]  # fmt: skip


def test_a_memory_from_before_families_is_read(site: Site) -> None:
    site.publish()
    state = json.loads((site.folder / "state.json").read_text())
    for one in state["standings"].values():
        del one["families"]
    for event in state["events"]:
        del event["family"]
    (site.folder / "state.json").write_text(json.dumps(state))
    lose_ipv6(site)
    site.health["mirrors"]["one"]["rounds"]["ipv4"]["good"] = 1  # it was listed, and has nothing to prove
    assert site.publish() == 0
    assert json.loads(site.read("mirrors.json"))["mirrors"][0]["address_families"] == ["ipv4"]


def test_a_hold_and_its_release(site: Site) -> None:
    site.publish()
    (site.folder / "holds" / "one").write_text("being updated: ü <i>\n")
    assert site.publish() == 0
    assert site.listed == {"one": False, "two": True}
    assert "held: being updated: ü &lt;i&gt;" in site.read("index.html")
    (site.folder / "holds" / "one").unlink()
    assert site.publish() == 0
    assert site.listed == {"one": True, "two": True}


def test_what_would_empty_the_list_is_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.publish()
    before = site.read("mirrors.json")
    for name in site.names:
        site.health["mirrors"][name] |= {"good": 0, "bad": 9, "problem": "connection refused"}
    assert site.publish() == 4
    assert "the list would become empty, it has 2 mirrors (one: connection refused" in capsys.readouterr().err
    assert site.read("mirrors.json") == before
    assert site.publish("--force") == 0
    assert site.listed == {"one": False, "two": False}


def test_each_run_is_told_to_the_monitoring_agent_if_there_is_one(site: Site) -> None:
    site.config["metrics"] = str(site.folder / "agent" / "list.prom")
    assert site.publish() == 0  # no agent, no folder
    (site.folder / "agent").mkdir()

    def told() -> dict[str, float]:
        lines = (site.folder / "agent" / "list.prom").read_text().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}

    site.publish()
    assert told()["mirrorfleet_list_listed_mirrors"] == told()["mirrorfleet_list_known_mirrors"] == 2
    for name in site.names:
        site.health["mirrors"][name] |= {"good": 0, "bad": 9, "problem": "connection refused"}
    assert site.publish() == 4
    assert told()["mirrorfleet_list_refused"] == 1
    site.health["at"] -= 10_000
    assert site.publish() == 1
    assert (told()["mirrorfleet_list_refused"], told()["mirrorfleet_list_kept"]) == (0, 1)
    # Since when, of those that an update holds; what a person holds is meant.
    for name, why in zip(site.names, ("being updated from 0.1.0", "disks"), strict=True):
        (site.folder / "holds" / name).write_text(why)
        os.utime(site.folder / "holds" / name, (9, 9))
    site.publish()
    held = {name: one for name, one in told().items() if "update_timestamp" in name}
    assert held == {f'mirrorfleet_list_update_timestamp_seconds{{mirror="{site.names[0]}"}}': 9}


@pytest.mark.parametrize("harm", ["absent", "rotten", "silent", "no health document"])
def test_a_monitor_that_says_nothing_leaves_the_list_as_it_is(
    site: Site, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.publish()
    if harm == "absent":
        site.config["health"] = [str(site.folder / "nothing.json")]
    elif harm == "silent":
        site.health["at"] -= 3600
    else:
        site.health = {"x": 1} if harm == "no health document" else []  # type: ignore[assignment]
    (site.folder / "holds" / "two").touch()
    assert site.publish() == 1
    assert "the list is kept as it is" in capsys.readouterr().err
    assert site.listed == {"one": True, "two": False}  # a hold counts all the same


def test_without_its_memory_the_published_list_says_who_was_listed(site: Site) -> None:
    site.publish()
    for name in site.names:
        site.health["mirrors"][name] |= {"good": 0, "bad": 9, "problem": "connection refused"}
    for harm in ("{ rotten", '{"standings": 7}', None):
        state = site.folder / "state.json"
        state.write_text(harm) if harm else state.unlink()
        assert site.publish() == 4


def test_one_record_that_is_not_valid_costs_one_mirror_its_place(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.publish()
    site.registry["mirrors"][0]["url"] = "https://one.example.org/\n<script>"
    assert site.publish() == 0
    assert site.listed == {"two": True}
    assert "registry: one: record.url is" in capsys.readouterr().err
    site.registry["fleet"].pop("staleness_limit")
    assert site.publish() == 2
    assert "registry.fleet lacks staleness_limit" in capsys.readouterr().err


# --- by the tools that read them ---


def test_the_zone_fragment_is_one(site: Site) -> None:
    site.publish()
    zone = site.folder / "zone"
    zone.write_text(
        "@ 300 IN SOA ns hostmaster 1 3600 600 86400 300\n@ 300 IN NS ns\nns 300 IN A 192.0.2.1\n"
        f"$INCLUDE {site.documents}/mirrors.zone\n"
    )
    done = subprocess.run(
        ["named-checkzone", "-D", "mirrors.example.org", zone], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert ("a.mirrors.example.org.", "300", "IN", "CNAME", "one.example.org.") in records
    assert ("last.mirrors.example.org.", "300", "IN", "CNAME", "b.mirrors.example.org.") in records
    assert ("continent-oc.mirrors.example.org.", "300", "IN", "AAAA", "2001:db8::7") in records


def test_a_mirror_keeps_its_letter(site: Site) -> None:
    site.publish()
    site.registry["mirrors"].append(record("another"))
    site.health = health(["one", "two", "another"], site.now)
    (site.folder / "holds" / "one").touch()
    site.publish()
    assert "a IN" not in site.read("mirrors.zone")
    assert "b IN CNAME two" in site.read("mirrors.zone")
    assert "c IN CNAME another" in site.read("mirrors.zone")
    assert [documents.letter(at) for at in (0, 25, 26, 701, 702)] == ["a", "z", "aa", "zz", "aaa"]


def test_the_feed_is_atom_and_tells_who_came_and_went(site: Site) -> None:
    site.publish()
    (site.folder / "holds" / "one").touch()
    site.publish()
    root = ElementTree.fromstring(site.read("feed.atom"))
    for element in (root, *root.findall(f"{ATOM}entry")):
        for tag in ("id", "title", "updated"):
            assert element.findtext(ATOM + tag), tag
    assert root.findtext(f"{ATOM}author/{ATOM}name") == "Test fleet"
    titles = [entry.findtext(ATOM + "title") for entry in root.findall(f"{ATOM}entry")]
    assert titles == ["one left", "two joined", "one joined"]
    ids = [element.text for element in root.iter(f"{ATOM}id")]
    assert len(set(ids)) == len(ids)


def as_readers_see(site: Site) -> dict[str, Any]:
    """The feed by a reader that nobody here wrote, as its words and times."""
    script = (
        "import feedparser, json, sys; found = feedparser.parse(sys.stdin.buffer.read());"
        "json.dump({'bozo': str(found.get('bozo_exception', '')), 'version': found.version, 'title': found.feed.title,"
        " 'updated': found.feed.updated_parsed, 'links': {one.rel: one.href for one in found.feed.links},"
        " 'entries': [[one.id, one.title, one.updated_parsed, one.content[0].value, one.tags[0].term]"
        " for one in found.entries]}, sys.stdout)"
    )
    reader = Path(__file__).resolve().parents[2] / "build/clients/bin/python"
    done = subprocess.run(
        [reader, "-c", script],
        input=(site.documents / "feed.atom").read_bytes(),
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_feed_reader_reads_the_feed_and_knows_its_entries_again(site: Site) -> None:
    site.registry["fleet"]["name"] = "Test & <fleet> für alle"
    site.publish()
    first = as_readers_see(site)
    (site.folder / "holds" / "one").write_text("disks & <wires>")
    site.publish()
    second = as_readers_see(site)
    assert (second["bozo"], second["version"]) == ("", "atom10")
    assert second["title"] == "Test & <fleet> für alle: mirrors"
    base = "https://fleet.example.org"
    assert second["links"] == {"self": f"{base}/feed.atom", "alternate": f"{base}/"}
    told = [(title, words, kind) for _, title, _, words, kind in second["entries"]]
    assert told == [
        ("one left", "held: disks & <wires>", "left"),
        ("two joined", "two is listed.", "joined"),
        ("one joined", "one is listed.", "joined"),
    ]
    # What was there is the same entry still, and the new one is none of them.
    assert second["entries"][1:] == first["entries"]
    assert len({entry[0] for entry in second["entries"]}) == 3
    state = json.loads((site.folder / "state.json").read_text())
    moments = [calendar.timegm(time.struct_time(entry[2])) for entry in second["entries"]]
    assert moments == [event["at"] for event in reversed(state["events"])]
    assert calendar.timegm(time.struct_time(second["updated"])) == max(moments)


def test_the_snippets_are_read_by_pip_and_uv(site: Site) -> None:
    site.publish()
    config = site.documents / "pip.conf"
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={"PIP_CONFIG_FILE": str(config), "PATH": "/usr/bin:/bin", "HOME": str(site.folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "global.index-url='https://one.example.org/simple/'" in pip.stdout, pip.stderr
    assert tomllib.loads(site.read("uv.toml"))["index"][0]["url"] == "https://one.example.org/simple/"
    (site.folder / "work").mkdir()
    uv_program, config = Path(sys.executable).with_name("uv"), site.documents / "uv.toml"
    uv = subprocess.run(
        [uv_program, "--config-file", config, "--offline", "pip", "list", "--system"],
        cwd=site.folder / "work", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert uv.returncode == 0, uv.stderr


def test_targets_are_for_who_is_not_retired(site: Site) -> None:
    site.registry["mirrors"][1]["state"] = "retired"
    site.publish()
    labels = {
        "mirror": "one", "operator": "A. Person", "country": "NZ", "continent": "OC",
        "mode": "bandersnatch", "tier": "1",
    }  # fmt: skip
    assert json.loads(site.read("metrics-targets.json")) == [
        {"targets": ["one.example.org:9100"], "labels": labels}
    ]
    assert json.loads(site.read("probe-targets.json")) == [
        {"targets": ["https://one.example.org/simple/"], "labels": labels | {"family": family}}
        for family in ("ipv4", "ipv6")
    ]


# --- the page ---


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_needs_nothing_else(site: Site) -> None:
    site.publish()
    site.listed_for(days=40)
    site.publish()
    text = site.read("index.html")
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert {"main", "h1", "caption", "title"} <= set(tags)
    assert not {"style", "img", "iframe"} & set(tags)  # the policy of the site allows neither
    assert not any(name == "style" or name.startswith("on") for _, names in page.tags for name in names)
    assert all("scope" in names for tag, names in page.tags if tag == "th")
    assert "2 of 2 mirrors are listed" in "".join(page.texts)
    assert 'd="M78 16V1M87 16V1"' in text  # two good days
    assert len(text) < 26_000  # of which the map's outline is 20,000


def test_a_mirror_of_which_there_is_only_a_problem_costs_nobody_else_anything(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was listed until its record was broken; the monitor told of it last."""
    assert site.publish() == 0
    assert "invalid" not in json.loads(site.read("mirrors.json")) and "Not valid" not in site.read(
        "index.html"
    )
    without = {name: site.read(name) for name in ("metrics-targets.json", "probe-targets.json")}
    site.registry["mirrors"].append(broken("three"))
    site.health["mirrors"]["three"] = dict(site.health["mirrors"]["one"])
    state = json.loads((site.folder / "state.json").read_text())
    state["standings"]["three"] = state["standings"]["one"]
    (site.folder / "state.json").write_text(json.dumps(state))
    capsys.readouterr()
    assert site.publish() == 0
    out, err = capsys.readouterr()
    assert "registry: three: mirror_bandwidth is text ('fast')\n" in err
    summary = json.loads(out.splitlines()[-1])
    assert (summary["listed"], summary["known"], summary["invalid"]) == (2, 3, 1)
    three = json.loads((site.folder / "state.json").read_text())["standings"]["three"]
    assert (three["listed"], three["code"]) == (False, "invalid")
    assert three["reason"] == "its record is not valid: mirror_bandwidth is text ('fast')"
    assert site.listed == {"one": True, "two": True}
    assert {name: site.read(name) for name in without} == without
    for name in ("mirrors.txt", "mirrors.zone"):
        assert "one.example.org" in site.read(name) and "three" not in site.read(name)
    # It is named, and nothing else is told of it.
    (told,) = json.loads(site.read("mirrors.json"))["invalid"]
    assert told == {"name": "three", "reason": "its record is not valid", "since": three["since"]}
    page = site.read("index.html")
    assert page.count("three") == 1 and "<h2>Not valid</h2>" in page
    assert "mirror_bandwidth" not in page
    assert "three left" in site.read("feed.atom")
    assert not (site.documents / "mirror" / "three.html").exists()
    (site.folder / "state.json").unlink()  # the published list alone says who was listed
    assert site.publish() == 0
    assert site.listed == {"one": True, "two": True}


def test_a_mirror_whose_sync_is_refused_is_listed_and_says_so(site: Site) -> None:
    site.publish()
    assert "refused" not in site.read("mirrors.json") + site.read("index.html") + site.read("mirror/one.html")
    site.health["mirrors"]["one"] |= {"refused": "2 of 2 projects <b>would"}
    assert site.publish() == 0
    document = json.loads(site.read("mirrors.json"))
    jsonschema.validate(document, schema("mirrors"), jsonschema.Draft202012Validator)
    one, two = document["mirrors"]
    assert (one["listed"], one["refused"], "refused" in two) == (True, "2 of 2 projects <b>would", False)
    assert site.read("index.html").count('<span class="next bad">its sync is refused</span>') == 1
    assert "its sync is refused</span>: <bdi>2 of 2 projects &lt;b&gt;would</bdi>" in site.read(
        "mirror/one.html"
    )
    site.health["mirrors"]["one"]["refused"] = ""
    assert site.publish() == 0
    assert "refused" not in site.read("mirrors.json") + site.read("index.html")


HOSTILE = st.text(max_size=40) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</table>", "&lt;", "{name}", "'", "\u202e", "]]>",
     "-->", "\x00", "\ud800"]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=HOSTILE, city=HOSTILE, operator=HOSTILE, hold=HOSTILE, problem=HOSTILE)
def test_hostile_words_are_inert(
    tmp_path_factory: pytest.TempPathFactory, name: str, city: str, operator: str, hold: str, problem: str
) -> None:
    """No element comes out of any word, and every document stays what it is."""

    def published(*words: str) -> Site:
        site = Site(tmp_path_factory.mktemp("site"), "one", "two", "three")
        site.registry["fleet"]["name"] = words[0] or "x"
        site.registry["mirrors"][0]["location"]["city"] = words[1] or "x"
        site.registry["mirrors"][0]["operator"]["name"] = words[2] or "x"
        site.health["mirrors"]["two"] |= {"good": 0, "bad": 9, "problem": words[4]}
        (site.folder / "holds" / "one").write_text(words[3], "utf-8", "surrogatepass")
        assert site.publish() == 0
        return site

    hostile, calm = published(name, city, operator, hold, problem), published(*["x"] * 5)
    assert Page(hostile.read("index.html")).tags == Page(calm.read("index.html")).tags
    document = json.loads(hostile.read("mirrors.json"))
    jsonschema.validate(document, schema("mirrors"))
    assert document["fleet"] == (name or "x")
    ElementTree.fromstring(hostile.read("feed.atom"))
    assert hostile.read("mirrors.zone") == calm.read("mirrors.zone")
    assert hostile.read("mirrors.txt") == calm.read("mirrors.txt")


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", 'https://a.example/" onclick=x', "https://a\nb", "//a.example"]
)
def test_a_url_that_is_none_costs_the_mirror_its_place(site: Site, url: str) -> None:
    site.registry["mirrors"][0]["operator"]["url"] = url
    assert site.publish() == 0
    assert site.listed == {"two": True}
    assert url not in site.read("index.html")


# --- our reading of JSON Schema against the full one ---

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(-1, 2)
    | st.sampled_from(["", "a", "ipv4", "https://a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "listed"]), inner, max_size=3)
    ),
    max_leaves=8,
)
SCHEMAS = st.sampled_from(
    [
        {"type": "integer", "minimum": 0},
        {"type": ["number", "null"], "maximum": 1},
        {"enum": ["a", 1, None, True]},
        {"const": 1},
        {"type": "array", "items": {"type": "string", "maxLength": 1}, "minItems": 1, "maxItems": 2,
         "uniqueItems": True},
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "boolean"}}, "additionalProperties": False},
        {"additionalProperties": {"type": "integer"}},
        {"type": "string", "minLength": 1, "pattern": "^https://[a-z]+$"},
        {"allOf": [{"if": {"properties": {"listed": {"const": True}}}, "then": {"required": ["a"]},
                    "else": {"properties": {"b": {"type": "null"}}}}]},
    ]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(SCHEMAS, VALUES)
def test_our_validator_says_what_the_full_one_says(node: dict[str, Any], value: Any) -> None:
    ours = not compile_schema(node)(value)
    whole = (
        isinstance(value, float) and value.is_integer()
    )  # the standard takes 1.0 for an integer: we do not
    if not whole and "0.0" not in json.dumps(value) and "1.0" not in json.dumps(value):
        assert ours == jsonschema.Draft202012Validator(node).is_valid(value)


def test_what_a_newer_monitor_tells_more_is_left_out_and_what_is_wrong_stays_wrong() -> None:
    now = 1_800_000_000
    told = {
        "schema": 1, "monitor": "m", "at": now, "reference": {"problem": "", "serial": None},
        "mirrors": {"one": {
            "measured_at": now, "good": 1, "bad": 0, "problem": "", "serial": None, "last_modified": None,
            "certificate_expires": None,
        }},
    }  # fmt: skip
    newer = json.loads(json.dumps(told))
    newer |= {"weather": {"rain": True}}
    newer["mirrors"]["one"] |= {"colour": "green"}
    newer["reference"] |= {"kind": [1]}
    assert read(newer) == read(told)
    for wrong in (
        told | {"schema": 2},
        newer | {"at": "now"},
        {"weather": 1},
        newer | {"mirrors": [1]},
        told | {"at": float(now)},
    ):
        with pytest.raises(InvalidDocumentError):
            read(wrong)


def test_a_registry_may_say_of_a_mirror_only_what_is_wrong_with_it() -> None:
    def problem(*mirrors: Any) -> str:
        document = registry("one") | {"mirrors": list(mirrors)}
        told = checker("registry")(document)
        assert jsonschema.Draft202012Validator(schema("registry")).is_valid(document) == (not told)
        return told

    assert problem(broken("one"), record("two")) == ""
    assert problem({"name": "one"}) == ".mirrors[0] lacks address_families"
    assert problem({"problem": "x"}) == ".mirrors[0] lacks name"
    assert problem(broken("one", "")) == ".mirrors[0].problem is '', expected at least 1 characters"
    assert problem(broken("one", 1)) == ".mirrors[0].problem is 1, expected string"
    assert problem(record("one") | broken("one")).startswith(".mirrors[0] has the unknown key")
    assert problem("one") == ".mirrors[0] is 'one', expected object"


def test_the_schemas_are_schemas_and_ours_are_all_read() -> None:
    for name in ("registry", "health", "mirrors"):
        jsonschema.Draft202012Validator.check_schema(schema(name))
        compile_schema(schema(name))
    with pytest.raises(InvalidDocumentError, match="mirrors lacks agreement_version"):
        validate({}, "mirrors")
    with pytest.raises(KeyError):
        compile_schema({"prefixItems": []})
