"""The documentation says what is there: its commands, links and keys exist, and the tests run what it shows."""

import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from differential.test_lock_files import COOLDOWNS, MOVES
from site_material import Site

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FLEET_TESTS = "".join(
    (ROOT / name).read_text()
    for name in (
        "molecule/fleet/tests/test_fleet.py",
        "molecule/monitoring_server/tests/test_monitoring_server.py",
        "playbooks/demo.sh",
        "tests/unit/test_update_play.py",
    )
)


def commands(page: Path) -> list[list[str]]:
    """Every make and ansible-playbook command of a page's code blocks and inline code."""
    text = page.read_text()
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:ansible-playbook|make) [^`]+)`", text)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()] + inline
    return [shlex.split(line) for line in lines if line.startswith(("make ", "ansible-playbook "))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist_and_are_run_by_the_tests(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page):
        if words[0] == "make":
            assert words[1] in targets, f"{page.name}: {' '.join(words)}"
            continue
        (name,) = [w for w in words if w.startswith("playbooks/")]
        assert (ROOT / name).exists(), f"{page.name}: {name} is not there"
        job = Path(name).stem
        if job != "preflight":  # provision.yml, update.yml import it
            assert f'playbook("{job}"' in FLEET_TESTS or f"playbooks/{job}.yml" in FLEET_TESTS, (
                f"no test runs {name}"
            )


def anchors(page: Path) -> set[str]:
    """Of the headings, as the forge makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" in target:
            continue
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name}: {target}#{anchor}"


# --- the glossary ---

GLOSSARY = ROOT / "docs/glossary.md"
TERMS = re.findall(r"^\| (?!term )([a-z][a-z -]*) \| ", GLOSSARY.read_text(), re.MULTILINE)
# Of operators and coordinators; what developers read, and the list of changes, come after them.
FOR_PEOPLE = [
    page for page in PAGES if page.stem not in ("CHANGELOG", "architecture", "development", "benchmarks")
]


def forms(term: str) -> str:
    """The term as a sentence has it: drain, drains, drained; agreement, agreements."""
    stem = term.removesuffix("ed").removesuffix("y")
    return rf"\b{re.escape(stem)}(y|ies|s|es|ed|ing|ned|ning)?\b"


def test_the_glossary_has_each_term_once_and_each_is_used():
    assert len(TERMS) == len(set(TERMS)) >= 35
    texts = {page.name: page.read_text() for page in PAGES if page != GLOSSARY}
    unused = [
        term for term in TERMS if not any(re.search(forms(term), text, re.I) for text in texts.values())
    ]
    assert unused == []


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda p: p.name)
def test_a_page_with_words_of_ours_leads_to_the_glossary(page):
    words = [term for term in TERMS if re.search(forms(term), page.read_text(), re.I)]
    if page != GLOSSARY and {"tier", "gate", "hold", "serial", "drain", "monitor", "origin"} & set(words):
        assert "glossary.md" in page.read_text(), f"{page.name} has {', '.join(words)}"


# --- what volunteers are told ---


def test_what_is_said_to_be_on_a_host_is_what_roles_put_there():
    text = (ROOT / "docs/volunteers.md").read_text()
    roles = (
        "".join(
            path.read_text()
            for path in (ROOT / "roles").rglob("*.*")
            if path.suffix in (".yml", ".j2", ".sh")
        )
        + (ROOT / "library/host_undo.yml").read_text()
    )
    paths = {path.rstrip("/*") for path in re.findall(r"(?<=[\s`])/[a-z][\w./*-]+(?=[\s`;])", text)}
    units = set(re.findall(r"mirror-[a-z]+\.(?:timer|service)", text))
    assert len(paths) >= 10
    assert len(units) >= 4
    # Programs have folders named after them, and units of several roles a common beginning.
    ours = {path for path in paths if not path.startswith(("/opt/", "/etc/systemd/system/mirror-"))}
    assert sorted(one for one in ours | units if one not in roles) == []
    linked = set(re.findall(r"\(\.\./roles/(\w+)/README\.md\)", text))
    play = (
        (ROOT / "playbooks/provision.yml").read_text().split("- name: Make the mirrors")[1].split("tasks:")[0]
    )
    assert set(re.findall(r"^    - (\w+)$", play, re.MULTILINE)) <= linked


# --- figures ---


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda p: p.name)
def test_what_benchmarks_measured_stands_in_one_place(page):
    assert "make bench" not in page.read_text()


def test_each_figure_has_its_command():
    sections = (ROOT / "docs/benchmarks.md").read_text().split("\n## ")[1:]
    assert len(sections) >= 6
    for section in sections:
        assert re.search(r"`make bench-[a-z]+[^`]*`", section), section.splitlines()[0]


# --- what users of mirrors type ---


def test_what_users_type_is_what_the_status_page_tells_and_the_tests_run(tmp_path, authority):
    """tests/unit/test_mirrorfleet_snippets.py runs all that the page tells, with real clients.

    What moves lock files, and takes only what is some days old, is in the documentation alone, from where it is run.
    """
    told = {*COOLDOWNS.splitlines(), *(line for _, commands in MOVES for line in commands.splitlines())}
    for at, secure in enumerate((False, True)):
        (tmp_path / str(at)).mkdir()
        site = Site(tmp_path / str(at))
        site.config["index_url"] = "https://MIRROR/simple/"
        if secure:
            site.config["authority"] = str(authority.pem)
            site.registry["mirrors"][0]["tls_mode"] = "private_ca"
        assert site.publish() == 0
        for text in re.findall(r"<pre[^>]*><code>([^<]*)</code></pre>", site.read("index.html")):
            told.update(html.unescape(text).splitlines())
    text = (ROOT / "docs/clients.md").read_text()
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in blocks if kind in ("", "toml") for line in block.splitlines()]
    typed = [re.split(r"  +#", line)[0].strip() for line in lines]
    assert len(typed) > 12
    assert [line for line in typed if line not in told] == []


def test_the_first_days_inventory_is_right_as_it_stands_there(tmp_path):
    text = (ROOT / "docs/first-day.md").read_text()
    files = re.findall(
        r"`~/fleet/([\w./-]+\.yml)`[^`]*?(?:`[^`]+`[^`]*?)?:\n\n```yaml\n(.*?)^```", text, re.M | re.S
    )
    assert [name for name, _ in files] == [
        "fleet.yml", "mirrors/one.example.org.yml", "mirrors/two.example.org.yml", "mirrors/three.example.org.yml",
    ]  # fmt: skip
    (tmp_path / "mirrors").mkdir()
    for name, content in files:
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, ROOT / "playbooks/check_inventory.py", tmp_path / "fleet.yml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fleet", ["example", "sandbox"])
def test_the_inventories_that_come_with_it_are_valid(fleet):
    """Nothing is told, and every record is a host."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", ROOT / "inventory" / fleet / "fleet.yml", "--list"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    records = {path.stem for path in (ROOT / "inventory" / fleet / "mirrors").glob("*.yml")}
    assert set(json.loads(done.stdout)["mirrors"]["hosts"]) == records != set()


def test_no_registry_host_and_no_path_of_a_machine_is_written_down():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "deb" + r"\.debian\.org", "/wor" + "k/"])
    )
    for name in files:
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            found = forbidden.search(path.read_text(errors="replace"))
            assert not found, f"{name} names {found[0]}"
