"""The status page and the mirrors' pages in a real browser, under the redirector's own policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser.website import Published, Visit, apart, headers, publish
from playwright.sync_api import Page, expect
from site_material import Site, fleet

Look = Callable[..., Visit]
Publish = Callable[[int], Published]

WIDE, NARROW = {"width": 1300, "height": 900}, {"width": 360, "height": 740}
# Expired certificate, failed audit, drained, ending certificate, wrong hash, no coordinates.
TROUBLES = range(1, 7)


def page_of(at: int) -> str:
    return f"mirror/mirror-{at:04d}.example.org.html"


def column(page: Page, title: str, table: str = "listed") -> list[str]:
    """The cells of a column, from above."""
    heads = page.locator(f"table.{table} thead th").all_inner_texts()
    at = [head.strip() for head in heads].index(title)
    script = "(rows, at) => rows.map(row => row.cells[at].textContent.trim())"
    cells: list[str] = page.locator(f"table.{table} tbody tr").evaluate_all(script, at)
    return cells


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_it_renders(visit: Look, published: Publish, size: int) -> None:
    fleet = published(size)
    seen = visit(f"{fleet.url}/", viewport=WIDE)
    page = seen.page
    names = [record["name"] for record in fleet.site.registry["mirrors"]]
    on = fleet.site.listed
    assert column(page, "Mirror") == [name for name in names if on[name]]
    if size > 1:
        assert column(page, "Mirror", "others") == [name for name in names if not on[name]]
    listed = sum(on.values())
    expect(page.locator("p strong").first).to_have_text(f"{listed} of {size} mirrors are listed")
    # The map stays one, however many there are: markers are shared, and count whom they stand for.
    titles = page.locator("svg.map title").all_text_contents()
    assert len(titles) <= 320
    counted = sum(int(title.split(" mirrors: ")[0]) if " mirrors: " in title else 1 for title in titles)
    assert counted == size - (size > 6)
    assert page.locator("svg.map .up").count() > 0
    assert (fleet.site.documents / "index.html").stat().st_size < 25_000 + 1300 * size
    page.get_by_role("link", name=names[-1]).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(names[-1])
    seen.expect_quiet(fleet.url)


@pytest.mark.parametrize("at", TROUBLES)
def test_a_mirror_s_page_tells_its_trouble(visit: Look, published: Publish, at: int) -> None:
    fleet = published(50)
    seen = visit(f"{fleet.url}/{page_of(at)}")
    text = seen.page.locator("main").inner_text()
    assert {
        1: "not listed" in text
        and "connection over ipv6: the certificate has expired" in text
        and "ended" in text,
        2: "failed: 2 rules do not hold" in text and "PEP 503" in text and "answered 200" in text,
        3: "drained by its operator" in text and "neither joined nor left" in text,
        4: "ends soon" in text,
        5: "served a file with a wrong hash" in text and "needs an audit that passes" in text,
        6: "(not on the map)" in text,
    }[at], text
    assert "secret" not in text
    assert seen.page.locator("svg.plot").count() == (0 if at == 3 else 2)  # the drained one was never listed
    seen.page.get_by_role("link", name="All mirrors of").click()
    expect(seen.page.get_by_role("table", name="The listed ones")).to_be_visible()
    seen.expect_quiet(fleet.url)


HOSTILE = (
    "<script>window.harmed = 1</script>", '"><img src=x onerror="window.harmed = 1">', "</title></table></svg><h1>x",
    "javascript:window.harmed=1", "\u202etxet\u202e", "' onmouseover='window.harmed=1", "{name} %s &lt;b&gt; ]]>",
    "https://elsewhere.example/x.png",
)  # fmt: skip


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_are_inert(
    visit: Look, serve: Callable[[Path], str], tmp_path: Path, words: str
) -> None:
    site = fleet(tmp_path, 3)
    name = words.replace("/", "∕").lstrip(".")
    hostile, well = site.registry["mirrors"][0], site.health["mirrors"].pop(site.names[0])
    hostile["name"], hostile["operator"]["name"], hostile["location"]["city"] = name, words, words
    site.registry["fleet"]["name"] = words
    failed = {"rule": "x", "source": words, "severity": "error", "summary": words, "detail": words}
    well |= {"good": 0, "bad": 9, "problem": words, "families": {"ipv4": words}}
    well["audit"] |= {"problem": words, "failed": [failed], "verdict": "failed"}
    site.health["mirrors"][name] = well
    (site.folder / "holds" / site.names[2]).write_text(words)
    publish(site)
    url = serve(site.documents)
    seen = visit(f"{url}/")
    shown = " ".join(words.replace("\u202e", " ").split())
    assert shown in " ".join(seen.page.locator("main").inner_text().split())
    link = seen.page.locator("tbody th a[href^='mirror/~']")
    expect(link).to_have_text(name.replace("\u202e", " ").strip())
    link.click()
    assert "/mirror/~" in seen.page.url
    assert shown in " ".join(seen.page.locator("main").inner_text().split())
    for address in (f"{url}/", seen.page.url):
        seen.page.goto(address)
        assert seen.page.evaluate("window.harmed") is None
        links = seen.page.locator("a").evaluate_all("all => all.map(one => one.protocol)")
        assert set(links) <= {"http:", "https:"}
        assert seen.page.locator("h1").count() == 1
    seen.expect_quiet(url)


def test_the_policy_is_strict_and_at_work(visit: Look, published: Publish) -> None:
    policy = dict(part.strip().split(" ", 1) for part in headers()["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[key] for key in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert set(policy.values()) == {"'none'", "'self'"}
    seen = visit(f"{published(1).url}/")
    seen.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.harmed = 1";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://elsewhere.example.org/x.png";
          document.body.append(image);
          const style = document.createElement("style");
          style.textContent = "body { display: none }";
          document.body.append(style);
        }"""
    )
    seen.page.wait_for_timeout(200)
    assert seen.page.evaluate("window.harmed") is None
    expect(seen.page.locator("h1")).to_be_visible()
    assert sum("Content Security Policy" in one for one in seen.said) == 3


# --- for everybody ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", page_of(1), page_of(2)])
def test_axe_finds_nothing(visit: Look, published: Publish, scheme: str, path: str) -> None:
    seen = visit(f"{published(20).url}/{path}", color_scheme=scheme, viewport=WIDE)
    for closed in seen.page.locator("details").all():
        closed.locator("summary").click()
    found = Axe().run(seen.page)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 15


def test_a_narrow_window_shows_it_all(visit: Look, published: Publish) -> None:
    """Nothing is wider than the window but the tables, which scroll, and can be scrolled by keyboard."""
    page = visit(f"{published(20).url}/", viewport=NARROW).page
    assert Axe().run(page).violations_count == 0
    for path in ("", page_of(1), page_of(2)):
        page.goto(f"{published(20).url}/{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        for table in page.get_by_role("table").all():
            expect(table.locator("xpath=..")).to_have_attribute("tabindex", "0")


# --- on a phone ---

CUT_OFF = """() => [...document.querySelectorAll("main *")].filter(one => {
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  return !one.closest("svg") && box.width > 0 && (box.right > innerWidth + .5 || box.left < -.5
    || (style.display !== "inline" && one.scrollWidth > one.clientWidth + 1));
}).map(one => `${one.tagName} ${one.className} ${one.textContent.slice(0, 60)}`)"""
LONG = "A-very-long-name-without-any-place-where-one-could-break-it-up.example.org"


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("size", [4, 300])
def test_a_phone_shows_all_of_it(visit: Look, published: Publish, size: int, script: bool) -> None:
    """Nothing scrolls sideways, neither the page nor a part of it, and nothing is cut off."""
    seen = visit(f"{published(size).url}/", viewport=NARROW, java_script_enabled=script)
    for path in ("", page_of(1), page_of(2)):
        seen.page.goto(f"{published(size).url}/{path}")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert seen.page.evaluate(CUT_OFF) == []
    seen.expect_quiet(published(size).url)


def test_a_phone_shows_long_words(
    visit: Look, serve: Callable[[Path], str], tmp_path: Path, authority: Path
) -> None:
    site = fleet(tmp_path, 3)
    for one in site.registry["mirrors"][:2]:
        one["operator"]["name"] = one["location"]["city"] = LONG
        one["left_out"] = {"releases_kept": 3, "platforms_excluded": ["windows", "macos", "freebsd"]}
    site.config["authority"] = str(authority)
    site.registry["mirrors"][0]["tls_mode"] = "private_ca"
    url = serve(publish(site).documents)
    page = visit(f"{url}/", viewport=NARROW).page
    for path in ("", page_of(0), page_of(1)):
        page.goto(f"{url}/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(CUT_OFF) == []
        assert Axe().run(page).violations_count == 0


def test_a_card_says_what_the_heads_say(visit: Look, published: Publish) -> None:
    page = visit(f"{published(50).url}/", viewport=NARROW).page
    script = """row => [...row.cells].map(cell => getComputedStyle(cell, "::before").content.replaceAll('"', ""))"""
    for table in ("listed", "others"):
        heads = [head.strip() for head in page.locator(f"table.{table} thead th").all_inner_texts()]
        said = page.locator(f"table.{table} tbody tr").first.evaluate(script)
        # The name and the reason are told by their place.
        assert [(head, one) for head, one in zip(heads, said, strict=True) if one not in (head, "none")] == []
        assert [head for head, one in zip(heads, said, strict=True) if one == "none"] == ["Mirror", "Why"][
            : 1 + (table == "others")
        ]


def test_a_card_is_a_row_for_a_screen_reader(visit: Look, published: Publish) -> None:
    page = visit(f"{published(4).url}/", viewport=NARROW).page
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    roles = [node["role"]["value"] for node in tree["nodes"] if not node["ignored"]]
    assert roles.count("table") == 2
    assert roles.count("row") == 2 + 4
    assert roles.count("rowheader") == 4


# --- on a desk ---


@pytest.mark.parametrize("width", [1200, 1440, 1920])
def test_no_column_is_wide_and_empty(visit: Look, published: Publish, width: int) -> None:
    """In the table of those that one may use; nothing scrolls sideways."""
    page = visit(f"{published(300).url}/", viewport={"width": width, "height": 900}).page
    for table in page.get_by_role("region").all():
        assert table.evaluate("one => one.scrollWidth <= one.clientWidth")
    script = """rows => [...rows[0].cells].map((_, at) => {
      const range = document.createRange();
      const words = rows.map(row => {
        range.selectNodeContents(row.cells[at]);
        return range.getBoundingClientRect().width;
      });
      return rows[0].cells[at].clientWidth - Math.max(...words);
    })"""
    assert max(page.locator("table.listed tr").evaluate_all(script)) < 90


def test_axe_finds_what_is_wrong(visit: Look, published: Publish) -> None:
    page = visit(f"{published(1).url}/").page
    page.evaluate("document.documentElement.removeAttribute('lang')")
    page.evaluate("document.querySelector('svg.map').removeAttribute('aria-label')")
    wrong = {one["id"] for one in Axe().run(page).response["violations"]}
    assert {"html-has-lang", "svg-img-alt"} <= wrong


def test_the_icon_is_a_picture(visit: Look, published: Publish) -> None:
    fleet = published(1)
    seen = visit(f"{fleet.url}/{page_of(0)}")
    script = """() => { const icon = new Image(); icon.src = document.querySelector("link[rel=icon]").href;
      return icon.decode().then(() => icon.naturalWidth > 0); }"""
    assert seen.page.evaluate(script)
    seen.expect_quiet(fleet.url)


def test_dark_is_dark(visit: Look, published: Publish) -> None:
    def paper(scheme: str) -> int:
        page = visit(f"{published(1).url}/", color_scheme=scheme).page
        color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))

    assert paper("light") > 700
    assert paper("dark") < 100


def focus(page: Page, name: str) -> dict[str, Any]:
    """Tab until the button of that name has the focus; how it shows that it has."""
    for _ in range(60):
        page.keyboard.press("Tab")
        found: dict[str, Any] = page.evaluate(
            """() => {
              const one = document.activeElement, {outlineStyle: style, outlineWidth: width} = getComputedStyle(one);
              return {text: one.textContent, tag: one.tagName, style, width: parseFloat(width)};
            }"""
        )
        assert found["style"] != "none", found
        assert found["width"] >= 2, found
        if found["text"] == name and found["tag"] == "BUTTON":
            return found
    raise AssertionError(f"{name} cannot be reached")


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ("Last synced", str),
        ("Score", float),
        ("30 days", lambda text: float(text.split()[0])),
        ("Mbit/s", int),
    ],
)
def test_the_keyboard_sorts(visit: Look, published: Publish, title: str, value: Callable[[str], Any]) -> None:
    fleet = published(50)
    seen = visit(f"{fleet.url}/")
    page = seen.page
    before = column(page, title)
    focus(page, title)
    head = page.locator("table.listed th[aria-sort]")
    for key, direction in (("Enter", "ascending"), ("Space", "descending"), ("Enter", "ascending")):
        page.keyboard.press(key)
        expect(head).to_have_attribute("aria-sort", direction)
        expect(head).to_have_text(title)
        cells = column(page, title)
        assert sorted(cells) == sorted(before)
        assert [value(cell) for cell in cells] == sorted(map(value, cells), reverse=direction == "descending")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).not_to_have_text(title)
    seen.expect_quiet(fleet.url)


def test_what_is_not_known_sorts_last(visit: Look, serve: Callable[[Path], str], tmp_path: Path) -> None:
    site = Site(tmp_path, "one", "two", "three")
    site.health["mirrors"]["one"]["day"] = {"rounds": 9, "good": 0, "duration": 0, "deviation": 0, "delay": 0}
    site.health["mirrors"]["two"]["day"] = {
        "rounds": 9,
        "good": 9,
        "duration": 1.5,
        "deviation": 0,
        "delay": 0,
    }
    site.health["mirrors"]["three"]["day"] = {
        "rounds": 9,
        "good": 9,
        "duration": 1.25,
        "deviation": 0,
        "delay": 9,
    }
    assert apart(site) == 0
    page = visit(f"{serve(site.documents)}/").page
    button = page.get_by_role("button", name="Score")
    for expected in (["1.5", "10.25", ""], ["10.25", "1.5", ""]):
        button.click()
        assert column(page, "Score") == expected


def test_it_works_without_javascript(visit: Look, published: Publish) -> None:
    fleet = published(50)
    seen = visit(f"{fleet.url}/", java_script_enabled=False)
    page = seen.page
    assert page.get_by_role("row").count() == 50 + 2
    expect(page.get_by_role("cell", name="served a file with a wrong hash")).to_be_visible()
    assert page.get_by_role("button").count() == 0
    expect(page.get_by_role("img", name="World map: ")).to_be_visible()
    expect(page.locator("#pdm")).not_to_be_visible()
    page.get_by_text("pdm", exact=True).click()
    expect(page.locator("#pdm")).to_be_visible()
    page.get_by_role("link", name="mirror-0002.example.org").click()
    expect(page.get_by_role("heading", name="Last audit")).to_be_visible()
    seen.expect_quiet(fleet.url)


def test_a_screen_reader_is_told_what_the_pictures_show(visit: Look, published: Publish) -> None:
    fleet = published(50)
    page = visit(f"{fleet.url}/").page
    listed = list(fleet.site.listed.values())
    words = f"World map: {sum(listed) - 1} listed mirrors and {listed.count(False)} that are not listed"
    expect(page.get_by_role("img", name=words)).to_be_visible()
    page.goto(f"{fleet.url}/{page_of(2)}")
    expect(page.get_by_role("img", name="Availability by day, ")).to_be_visible()
    text = page.locator("main").inner_text()
    assert "25.0 % on" in text
    assert "it is stale" in text
