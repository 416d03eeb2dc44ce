"""The map and the mirrors' pages: where markers stand, whose page is made, what it says."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from listing_material import record
from site_material import DAY, FAILED, Site, health

from mirrorfleet.fleet.standing import Event
from mirrorfleet.monitor import reports
from mirrorfleet.site import markup, mirror_page, publish, world_map

NOW = 1_800_000_000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- the map ---


@pytest.mark.parametrize(
    ("longitude", "latitude", "x", "y"),
    [
        # Its authors' extents, times our scale.
        (0, 0, 480, 234),
        (0, 90, 480, 234 - 177 * 1.3173628),
        (180, 0, 480 + 177 * 2.7066300, 234),
        (-180, 0, 480 - 177 * 2.7066300, 234),
    ],
)
def test_places_are_where_equal_earth_has_them(longitude: float, latitude: float, x: float, y: float) -> None:
    assert world_map.project(longitude, latitude) == pytest.approx((x, y), abs=0.1)


@given(st.floats(-179, 179), st.floats(-85, 85))
def test_areas_are_as_they_are(longitude: float, latitude: float) -> None:
    """A small square's area on the map, by its sides, is the one that it has on the globe."""
    step = 1e-4
    x, y = world_map.project(longitude, latitude)
    east, north = (
        world_map.project(longitude + step, latitude), world_map.project(longitude, latitude + step)
    )  # fmt: skip
    area = abs((east[0] - x) * (north[1] - y) - (north[0] - x) * (east[1] - y))
    globe = math.radians(step) ** 2 * math.cos(math.radians(latitude)) * 177**2
    assert area == pytest.approx(globe, rel=1e-3)


@given(st.floats(-180, 180), st.floats(-90, 90))
def test_every_place_is_on_the_map(longitude: float, latitude: float) -> None:
    x, y = world_map.project(longitude, latitude)
    assert 0 <= x <= world_map.WIDTH
    assert 0 <= y <= world_map.HEIGHT


def rings() -> list[list[tuple[float, float]]]:
    found = []
    for part in world_map.outline().split("z")[:-1]:
        start, steps = part.removeprefix("M").split("l")
        numbers = [float(one) for one in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", steps)]
        x, y = map(float, start.split())
        ring = [(x, y)]
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            ring.append((x, y))
        found.append(ring)
    return found


def on_land(longitude: float, latitude: float) -> bool:
    """By the rule of even and odd, as the page fills the outline."""
    x, y = world_map.project(longitude, latitude)
    crossed = 0
    for ring in rings():
        for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
            crossed += (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1)
    return crossed % 2 == 1


@pytest.mark.parametrize(
    ("longitude", "latitude", "land"),
    [
        (13.4, 52.5, True), (36.8, -1.3, True), (-58, -10, True), (-100, 45, True), (134, -25, True), (78, 22, True),
        (0, -85, True), (-175, 66.5, True), (178, 66.5, True), (170.5, -44, True), (138.5, 36.2, True),
        (-30, 40, False), (80, -30, False), (-150, 0, False), (0, 0, False), (-90, 25, False), (179.9, 50, False),
        (50.5, 42, False), (0, -60, False),
    ],
)  # fmt: skip
def test_land_is_land_and_sea_is_sea(longitude: float, latitude: float, land: bool) -> None:
    assert on_land(longitude, latitude) is land


def test_the_outline_is_small_and_says_whose_it_is() -> None:
    path = Path(world_map.__file__).parent / "world.json"
    assert path.stat().st_size < 60_000
    document = json.loads(path.read_text())
    assert "Natural Earth" in document["source"]
    assert "public domain" in document["licence"]


def drawn(mirrors: list[dict[str, Any]]) -> list[tuple[str, str]]:
    figure = ElementTree.fromstring(world_map.world_map(mirrors))
    return [(one.get("class", ""), one[0].text or "") for one in figure[0] if one.get("class") != "land"]


def test_mirrors_close_together_share_a_marker() -> None:
    def mirror(name: str, listed: bool, latitude: float | None = 50.0) -> dict[str, Any]:
        place = {"city": "x", "country": "DE", "continent": "EU"}
        if latitude is not None:
            place |= {"latitude": latitude, "longitude": 8.0}  # type: ignore[dict-item]
        return {"name": name, "listed": listed, "location": place}

    mirrors = [mirror(name, True) for name in "abcdefg"] + [mirror("h", False), mirror("i", True, 10.0)]
    assert drawn([*mirrors, mirror("nowhere", True, None)]) == [
        ("up", "7 mirrors: a, b, c, d, e, …"),
        ("up", "i"),
        ("down", "h (not listed)"),
    ]
    assert "Not on the map, for want of coordinates: 1." in world_map.world_map([mirror("x", True, None)])


# --- whose page is made ---


@given(st.text(min_size=1, max_size=253))
def test_every_name_has_a_file_of_its_own(name: str) -> None:
    file = mirror_page.file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9~][A-Za-z0-9._-]{0,204}", file)
    assert file == f"{name}.html" or file.startswith("~")
    assert mirror_page.file_name(f"{name}x") != file


def pages(site: Site) -> list[str]:
    return sorted(path.name for path in (site.documents / "mirror").iterdir())


def test_pages_of_mirrors_that_are_gone_go(site: Site) -> None:
    site.publish()
    assert pages(site) == ["one.html", "two.html"]
    (site.documents / "mirror" / ".mirrorfleet-0123").write_text("of a killed run")
    site.registry["mirrors"][0]["state"] = "retired"
    site.publish()
    assert pages(site) == ["two.html"]
    site.registry["mirrors"][0]["state"] = "active"
    site.publish()
    assert pages(site) == ["one.html", "two.html"]


def test_a_large_fleet_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "PAGES_A_RUN", 2)
    names = ["a", "b", "c", "d", "e"]
    site = Site(tmp_path, *names)
    site.publish()
    assert pages(site) == [f"{name}.html" for name in names]

    def made() -> str:
        """Whose page is made anew by a run after which each says something else."""
        site.health["mirrors"] = {
            name: one | {"serial": one["serial"] + 1} for name, one in site.health["mirrors"].items()
        }
        before = {name: site.read(f"mirror/{name}.html") for name in names}
        site.publish()
        return "".join(name for name in names if site.read(f"mirror/{name}.html") != before[name])

    assert [made() for _ in range(4)] == ["cd", "e", "ab", "cd"]
    (site.folder / "holds" / "a").touch()
    assert made() == "ae"  # whose standing changed, and whose turn it is
    (site.documents / "mirror" / "d.html").unlink()
    (site.documents / "mirror" / "d.html").write_text("")  # as a power cut may leave it
    assert [made() for _ in range(2)] == ["ab", "cd"]


def test_history_is_kept_by_mirror(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "EVENTS_KEPT", 2)
    monkeypatch.setattr(publish, "EVENTS_OF_A_MIRROR", 3)
    site.publish()
    for _ in range(3):
        (site.folder / "holds" / "two").write_text("<b>new disks</b>")
        site.publish()
        (site.folder / "holds" / "two").unlink()
        site.publish()
    told = re.findall("</time> (joined|returned|left)", site.read("mirror/two.html"))
    assert told == ["returned", "left", "returned"]
    assert "left: <bdi>held: &lt;b&gt;new disks&lt;/b&gt;</bdi>" in site.read("mirror/two.html")
    assert "</time> joined" in site.read("mirror/one.html")  # though the feed has forgotten it


def test_a_memory_from_before_histories_is_read(site: Site) -> None:
    site.publish()
    state = site.folder / "state.json"
    document = json.loads(state.read_text())
    del document["history"], document["turn"]
    state.write_text(json.dumps(document))
    assert site.publish() == 0
    assert "neither joined nor left lately" in site.read("mirror/one.html")


# --- what it says ---


@pytest.mark.parametrize(
    ("template", "value", "said"),
    [
        ("{{ value }}", '<b>"x" & y\x07\u202ez', "&lt;b&gt;&#34;x&#34; &amp; y  z"),
        ("{{ value }}", "{{ 7 * 7 }}", "{{ 7 * 7 }}"),
        ("{{ value.items }}", {"items": "<"}, "&lt;"),
    ],
)
def test_what_a_template_says_is_words(template: str, value: object, said: str) -> None:
    assert markup.PAGES.from_string(template).render(value=value) == said


@pytest.mark.parametrize("template", ["{{ other }}", "{{ value.other }}", "{% if value.other %}{% endif %}"])
def test_a_template_that_says_what_is_not_there_fails(template: str) -> None:
    with pytest.raises(UndefinedError):
        markup.PAGES.from_string(template).render(value={})


def test_a_mirror_that_nobody_measured_has_a_page(site: Site) -> None:
    site.registry["mirrors"].append(record("new"))
    del site.registry["mirrors"][2]["operator"]["url"]
    site.registry["mirrors"][2]["urls"].append("https://second.example.org")
    site.publish()
    text = site.read("mirror/new.html")
    for words in (
        "not measured yet",
        "Not audited yet",
        "count from the first on which it is listed",
        "second.example.org/simple/",
    ):
        assert words in text
    assert "person@example.org" not in text


def test_the_one_index_of_the_fleet_comes_first_and_whom_a_client_trusts_is_told(site: Site) -> None:
    chosen = "Whoever runs the mirror you choose can change what you install"
    site.publish()
    assert chosen in site.read("index.html") and "One index for the whole fleet" not in site.read(
        "index.html"
    )
    site.config["index_url"] = "https://pypi.example.org/simple/"
    site.publish()
    page = site.read("index.html")
    assert "One index for the whole fleet" in page and chosen not in page
    assert (
        "--index-url https://pypi.example.org/simple/ PROJECT" in page
        and "--index-url https://one." not in page
    )
    assert "index-url = https://pypi.example.org/simple/" in site.read("pip.conf")
    assert 'url = "https://pypi.example.org/simple/"' in site.read("uv.toml")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "12 projects"),
        ({"projects": 1, "on_miss": "pass"}, "one project; all else is passed on to upstream"),
        (
            {"projects": None, "partial": True},
            "every project, without some releases, platforms or large projects",
        ),
        (
            {"projects": None, "left_out": {"releases_kept": 3, "platforms_excluded": ["windows", "macos"]}},
            "every project, the newest 3 releases of each, no wheels for windows, macos",
        ),
        (
            {
                "projects": None,
                "partial": True,
                "left_out": {"releases_kept": 1, "max_project_size": 2_500_000_000},
            },
            "every project, the newest release of each, no project beyond 2.5 GB",
        ),
        (
            {"projects": None, "mode": "cache", "on_miss": "pass"},
            "what was asked for; all else is fetched from upstream",
        ),
    ],
)
def test_what_a_mirror_carries(site: Site, changes: dict[str, Any], told: str) -> None:
    site.registry["mirrors"][0] |= changes
    site.publish()
    assert facts(site)["Carries"] == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "12 projects"),
        ({"projects": 1}, "1 project"),
        ({"projects": None}, "everything"),
        ({"projects": None, "left_out": {"releases_kept": 3}}, "everything the newest 3 releases of each"),
        ({"projects": None, "mode": "cache"}, "on demand"),
    ],
)
def test_the_table_says_what_each_carries(site: Site, changes: dict[str, Any], told: str) -> None:
    site.registry["mirrors"][0] |= changes
    site.publish()
    (cells, *_) = re.findall('<td class="short">(.*?)</td>', site.read("index.html"))
    assert " ".join(re.sub("<[^>]*>", " ", cells).split()) == told


# --- the fleet's own authority ---


def test_only_the_certificate_of_a_file_is_published(site: Site, authority: Any) -> None:
    """A file that has its key, too, by mistake."""
    file = site.folder / "both.pem"
    key, _ = authority.issue("key.example.org").read_text().split("-----BEGIN CERT")
    file.write_text(key + authority.pem.read_text())
    assert "PRIVATE KEY" in file.read_text()
    site.config["authority"] = str(file)
    assert site.publish() == 0
    assert site.read("authority.pem") == authority.pem.read_text()
    assert "authority.pem" in site.read("index.html")
    # No mirror has its certificate from it: nobody is told to trust it.
    assert "--cert" not in site.read("index.html") + site.read("mirror/one.html") + site.read("pip.conf")


def test_an_authority_that_is_no_longer_there_is_no_longer_offered(site: Site, authority: Any) -> None:
    site.config["authority"] = str(authority.pem)
    site.registry["mirrors"][0]["tls_mode"] = "private_ca"
    assert site.publish() == 0
    page = site.read("index.html")
    assert page.count("fleet’s authority</span>") == 1  # one of two mirrors
    assert "pip install --cert authority.pem --index-url https://one.example.org/simple/" in page
    del site.config["authority"]
    assert site.publish() == 0
    assert not (site.documents / "authority.pem").exists()
    assert "authority" not in site.read("index.html")


@pytest.mark.parametrize("content", ["", "no certificate", "leaf", None])
def test_what_is_no_authority_is_told(
    site: Site, authority: Any, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = site.folder / "authority.pem"
    if content is not None:
        leaf = authority.issue("one.example.org").read_text()
        file.write_text(leaf[leaf.index("-----BEGIN CERT") :] if content == "leaf" else content)
    site.config["authority"] = str(file)
    assert site.publish() == 2
    told = capsys.readouterr().err
    assert f"authority: {file} is not the certificate of one authority" in told
    assert "playbooks/provision.yml" in told


def test_by_which_terms_a_mirror_is_lent(site: Site) -> None:
    site.registry["mirrors"][0]["agreement"] |= {"version": "<2026>", "expires_on": "2027-11-20"}
    for key in ("projects", "on_miss", "partial"):  # a registry of before
        del site.registry["mirrors"][0][key]
    site.publish()
    assert facts(site)["Agreement"] == "&lt;2026&gt;, accepted on 2026-11-20, until 2027-11-20"
    assert "Carries" not in facts(site)


def facts(site: Site) -> dict[str, str]:
    text = site.read("mirror/one.html")
    pairs = re.findall("<dt>(.*?)</dt>.*?<dd>(.*?)</dd>", text, re.DOTALL)
    return {key: re.sub("<[^>]*>", "", value) for key, value in pairs}


@pytest.mark.parametrize(
    ("left", "warning"),
    [(15 * DAY, ""), (14 * DAY, "ends soon"), (1, "ends soon"), (0, "ended"), (-9, "ended")],
)
def test_a_certificate_warns_well_before_it_ends(left: int, warning: str) -> None:
    assert re.sub("<[^>]*>", "", markup.certificate(NOW + left, NOW))[10:].strip() == warning


def test_a_plot_has_gaps_where_nothing_is_known(site: Site) -> None:
    site.health = health(
        site.names, site.now,
        days=[None] * 27 + [0.25, None, 1.0],
        history={"behind": [None] * 28 + [0, 172800], "independent": [None] * 28 + [0.5, 1.0]},
    )  # fmt: skip
    site.publish()
    site.listed_for(days=40)
    site.publish()
    root = ElementTree.fromstring(site.read("mirror/one.html").split("\n", 1)[1])
    bars = [one.get("d") for one in root.iter("path") if one.get("class") == "bar"]
    assert bars == ["M542 66v-15h16V66zM582 66v-60h16V66z", "M562 66v-1h16V66zM582 66v-60h16V66z"]
    assert [one.get("d") for one in root.iter("path") if one.get("class") == "limit"] == ["M0 36h600"]
    text = " ".join("".join(root.itertext()).split())
    assert "62.50 % in the mean, 25.0 % on" in text
    assert "an independent probe of the index page, 75.00 % in the mean" in text
    assert "at most 2 days, on" in text


def test_the_summary_of_an_audit_is_short_and_has_the_worst_first() -> None:
    rule = {
        "rule": "x",
        "source": "PEP 503",
        "severity": "warning",
        "summary": "s",
        "passed": False,
        "detail": "",
    }
    rules = [rule] * 25 + [rule | {"severity": "error"}, rule | {"passed": True}, rule | {"passed": None}]
    report = {
        "passed_at": None, "tampered_at": None, "problem": "p", "started": 7, "verdict": "failed", "rules": rules,
        "integrity": {"files": 3}, "completeness": {"sampled": 9, "low": 0.5, "high": 0.75},
    }  # fmt: skip
    short = reports.summary(report)
    assert [one["severity"] for one in short["failed"]] == ["error"] + ["warning"] * 19
    assert (short["hashed"], short["sampled"], short["complete"]) == (3, 9, [0.5, 0.75])
    assert "passed" not in short["failed"][0]


def test_what_an_audit_found_is_on_the_page(site: Site) -> None:
    audit = {
        "passed_at": site.now - 9 * DAY, "tampered_at": None, "problem": "2 rules", "started": site.now,
        "verdict": "failed", "hashed": 3, "sampled": 9, "complete": [0.5, 0.75], "failed": FAILED,
    }  # fmt: skip
    site.health = health(site.names, site.now, audit=audit)
    site.publish()
    text = re.sub("<[^>]*>", " ", site.read("mirror/one.html"))
    for words in (
        "failed : 2 rules",
        "50.0 % and 75.0 %",
        "RFC 9110, 12.5.5",
        "error",
        "The last that passed",
    ):
        assert words in " ".join(text.split())


def test_events_are_what_the_feed_has(site: Site) -> None:
    site.publish()
    document = json.loads((site.folder / "state.json").read_text())
    assert [Event(**one) for one in document["history"]["one"]] == [
        Event(**one) for one in document["events"] if one["mirror"] == "one"
    ]
