"""Signatures of the lists: over the bytes beside them, whatever died or changed; by the stock programs and commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest
import sign_lists
import yaml
from site_material import Site

HOUSE = Path(__file__).resolve().parents[2]
DOCS = HOUSE / "docs/publish.md"
LISTS = ["mirrors.txt", "mirrors-ipv4.txt", "mirrors-ipv6.txt"]
SUFFIX = {"minisign": ".minisig", "signify": ".sig"}
PROGRAM = {"minisign": "minisign", "signify": "signify-openbsd"}


class Signed(Site):
    """A site with keys, as docs/publish.md has them made."""

    def __init__(self, folder: Path, tool: str) -> None:
        super().__init__(folder)
        self.tool, self.suffix = tool, SUFFIX[tool]
        self.names = ["mirrors.json", *LISTS]
        self.brought = folder / "brought"

    def key(self, name: str) -> Path:
        """The folder of a new pair of keys, made by the command of the docs."""
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir()
            run_docs("Make a key", self.tool, folder)
        return folder

    def by(self, name: str, **changes: str) -> None:
        """Each run signs, by that key."""
        folder = self.key(name)
        self.config["signing"] = {
            "tool": self.tool,
            "key": str(folder / "list.sec"),
            "public_key": str(folder / "list.pub"),
        } | changes

    def elsewhere(self, name: str) -> None:
        """Signatures by that key are brought."""
        self.brought.mkdir(exist_ok=True)
        self.config["signing"] = {
            "tool": self.tool,
            "public_key": str(self.key(name) / "list.pub"),
            "brought": str(self.brought),
        }

    def bring(self, name: str, *documents: str) -> None:
        secret = self.folder / name / "list.sec"
        for document in documents:
            made = self.brought / (document + self.suffix)
            command = [PROGRAM[self.tool], "-S", "-s", secret, "-m", self.documents / document, "-x", made]
            subprocess.run(command, check=True, capture_output=True)

    def beside(self, document: str) -> Path:
        return self.documents / (document + self.suffix)

    def holds(self, document: str, key: Path | None = None) -> bool:
        """Whether the stock program finds document and signature to be of the published key, or of `key`."""
        path, public = self.documents / document, key or self.documents / "mirrors.pub"
        command = [PROGRAM[self.tool], "-V", "-p", public, "-m", path, "-x", self.beside(document)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @property
    def signatures(self) -> list[str]:
        found = (path.name for path in self.documents.iterdir())
        return sorted(name for name in found if name.endswith((".minisig", ".sig")))


def commands(title: str) -> str:
    """The block of commands below a bold title in the docs."""
    match = re.search(rf"\*\*{title}[^\n]*\n.*?```\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert match, title
    return match[1]


def run_docs(title: str, tool: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The commands of the docs that are of this program."""
    lines = [line for line in commands(title).splitlines() if line.startswith(PROGRAM[tool])]
    assert lines
    return subprocess.run(
        ["sh", "-ec", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(params=["minisign", "signify"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Signed:
    return Signed(tmp_path, request.param)


@pytest.fixture
def minisign(tmp_path: Path) -> Signed:
    return Signed(tmp_path, "minisign")


def test_the_lists_are_signed_and_verified_as_docs_and_page_tell(site: Signed) -> None:
    site.by("first")
    assert site.publish() == 0
    assert site.read("mirrors.pub") == (site.folder / "first/list.pub").read_text()
    reader = site.folder / "reader"
    reader.mkdir()
    for name in [*site.names, *(name + site.suffix for name in site.names), "mirrors.pub"]:
        shutil.copy(site.documents / name, reader)
    page = re.search(r'<pre id="verify"><code>(.*?)</code>', site.read("index.html"), re.DOTALL)
    assert page and 'href="mirrors.pub"' in site.read("index.html")

    def verify() -> list[int]:
        shell = ["sh", "-ec", unescape(page[1]) if page else ""]
        shown = subprocess.run(shell, cwd=reader, capture_output=True, check=False)
        return [run_docs("Verify", site.tool, reader).returncode, shown.returncode]

    assert verify() == [0, 0]
    (reader / "mirrors.txt").write_text("https://evil.example.org/simple/\n")
    assert all(verify())
    assert all(site.holds(name) for name in site.names)
    assert site.publish() == 0 and site.signatures == sorted(name + site.suffix for name in site.names)


def test_a_run_that_changes_nothing_signs_nothing_anew(minisign: Signed) -> None:
    minisign.by("first")
    minisign.publish()
    before = {name: minisign.beside(name).stat().st_ino for name in LISTS}
    minisign.publish()
    assert {name: minisign.beside(name).stat().st_ino for name in LISTS} == before


@pytest.mark.parametrize("spoil", ["garbage", "empty", "of another", "gone", "a folder", "endless"])
def test_what_is_no_signature_of_the_bytes_beside_it_is_made_anew(minisign: Signed, spoil: str) -> None:
    minisign.by("first")
    minisign.publish()
    beside, other = minisign.beside("mirrors.txt"), minisign.beside("mirrors.json").read_bytes()
    beside.unlink()
    if spoil == "a folder":
        beside.mkdir()
    elif spoil == "endless":
        with beside.open("wb") as stream:
            os.truncate(stream.fileno(), 1 << 40)
    elif spoil != "gone":
        beside.write_bytes({"garbage": b"\xff\0garbage", "empty": b"", "of another": other}[spoil])
    assert not minisign.holds("mirrors.txt")
    assert minisign.publish() == 0
    assert all(minisign.holds(name) for name in minisign.names)


def test_another_key_signs_all_anew_and_another_program_too(site: Signed) -> None:
    site.by("first")
    site.publish()
    site.by("second")
    assert site.publish() == 0
    assert all(site.holds(name, site.folder / "second/list.pub") for name in site.names)
    assert site.read("mirrors.pub") == (site.folder / "second/list.pub").read_text()
    site.tool = "signify" if site.tool == "minisign" else "minisign"
    site.suffix = SUFFIX[site.tool]
    site.by("third")
    assert site.publish() == 0
    assert all(site.holds(name) for name in site.names)
    assert site.signatures == sorted(name + site.suffix for name in site.names)


def test_who_signs_no_more_leaves_no_signature(minisign: Signed) -> None:
    minisign.by("first")
    minisign.publish()
    del minisign.config["signing"]
    assert minisign.publish() == 0
    assert minisign.signatures == [] and not (minisign.documents / "mirrors.pub").exists()
    assert "mirrors.pub" not in minisign.read("index.html")


@pytest.mark.parametrize("refused", [False, True])
def test_a_kill_between_document_and_signature_heals(
    minisign: Signed, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """Whether the next run makes the same documents, or a guard refuses to make any."""
    minisign.by("first")
    real = os.replace
    for name in minisign.names:
        (minisign.folder / "holds/one").unlink(missing_ok=True)
        assert minisign.publish() == 0
        (minisign.folder / "holds/one").touch()
        if (child := os.fork()) == 0:

            def dying(source: Path, target: Path, last: str = minisign.beside(name).name) -> None:
                if target.name == last:
                    os._exit(9)
                real(source, target)

            monkeypatch.setattr(os, "replace", dying)
            os._exit(minisign.publish())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert not minisign.holds(name)
        if refused:
            (minisign.folder / "holds/two").touch()
        assert minisign.publish() == (4 if refused else 0)
        assert all(minisign.holds(one) for one in minisign.names)
        (minisign.folder / "holds/two").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": "/no/key"}, "signing.key: minisign cannot sign with /no/key"),
        ({"program": "/no/program"}, "signing.program: /no/program is not installed"),
        ({"public_key": "/no/key"}, "signing.public_key: /no/key is no public key"),
        ({"public_key": "SECRET"}, "is no public key of minisign or signify (its last line is no key)"),
        ({"public_key": "OTHER"}, "other/list.pub (signing.public_key); both are made by one command"),
        ({"brought": "/brought"}, "signing: has one of key"),
    ],
)
def test_what_cannot_sign_publishes_nothing_unsigned(
    minisign: Signed, changes: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"SECRET": minisign.key("first") / "list.sec", "OTHER": minisign.key("other") / "list.pub"}
    minisign.by("first", **{key: str(places.get(value, value)) for key, value in changes.items()})
    assert minisign.publish() == 2
    assert words in capsys.readouterr().err
    assert not (minisign.documents / "mirrors.json").exists()


# --- signed on another machine ---


def test_signatures_that_are_brought_are_beside_the_bytes_that_they_are_of(
    site: Signed, capsys: pytest.CaptureFixture[str]
) -> None:
    def publish() -> list[str]:
        assert site.publish() == 0
        found: list[str] = json.loads(capsys.readouterr().out.splitlines()[-1])["unsigned"]
        return found

    site.elsewhere("first")
    assert publish() == LISTS
    site.bring("first", *LISTS)
    assert publish() == [] and all(site.holds(name) for name in LISTS)
    assert site.signatures == sorted(name + site.suffix for name in LISTS)
    # Who left is in no list, and no list has the signature of the former one. The former comes back with its own.
    former = site.read("mirrors.txt")
    (site.folder / "holds/one").touch()
    assert publish() == LISTS and site.signatures == []
    (site.folder / "holds/one").unlink()
    assert publish() == [] and site.read("mirrors.txt") == former
    site.elsewhere("second")
    assert publish() == LISTS and site.signatures == []
    site.bring("second", "mirrors.txt")
    (site.brought / ("mirrors-ipv4.txt" + site.suffix)).write_bytes(b"garbage")
    assert publish() == LISTS[1:] and site.holds("mirrors.txt")


def test_the_key_of_a_signature_that_is_brought_is_needed_by_nobody_here(minisign: Signed) -> None:
    minisign.elsewhere("first")
    minisign.publish()
    minisign.bring("first", *LISTS)
    (minisign.folder / "first/list.sec").unlink()
    assert minisign.publish() == 0 and all(minisign.holds(name) for name in LISTS)


def scraped(path: Path) -> dict[str, str]:
    """By series what a monitor has of a redirector's metrics, by the labels of its job (prometheus.yml.j2)."""
    samples = re.findall(r"^([a-z_]+)(?:{(.*)})? (\S+)$", path.read_text(), re.MULTILINE)
    return {
        f'{name}{{job="fleet",host="list"{"," * bool(labels)}{labels}}}': value
        for name, labels, value in samples
    }


def test_the_coordinator_is_mailed_while_lists_wait_for_a_signature(minisign: Signed) -> None:
    """The rule of the monitor, on what the list tells of itself: for 90 minutes unsigned, then signed."""
    told = minisign.folder / "list.prom"
    minisign.config["metrics"] = str(told)
    minisign.elsewhere("first")
    minisign.publish()
    unsigned = scraped(told)
    minisign.bring("first", *LISTS)
    minisign.publish()
    signed = scraped(told)
    assert unsigned.keys() == signed.keys()
    alert = 'ALERTS{alertname="ListUnsigned",alertstate="firing"}'
    fires = [{"labels": alert[:-1] + ',host="list",severity="coordinator"}', "value": 1}]
    test = {
        "interval": "1m",
        "input_series": [{"series": one, "values": f"{unsigned[one]}x90 {signed[one]}x9"} for one in signed],
        "promql_expr_test": [
            {"expr": alert, "eval_time": f"{minute}m", "exp_samples": fires if minute == 90 else []}
            for minute in (59, 90, 95)
        ],
    }
    rules = HOUSE / "roles/monitoring_server/files/mirrorfleet.rules.yml"
    path = minisign.folder / "tests.yml"
    path.write_text(json.dumps({"rule_files": [str(rules)], "tests": [test]}))
    run = subprocess.run(
        [HOUSE / "build/promtool", "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


PLAY = """
- hosts: list
  gather_facts: false
  tasks:
    - include_role: {name: redirector, tasks_from: held, public: true}
    - copy: {dest: "{{ list_json }}", content: "{{ __redirector_list_config | to_json }}", mode: "0600"}
- hosts: all
  gather_facts: false
  tasks: PUBLISH
"""


@pytest.mark.slow
def test_publish_signs_on_the_control_node(tmp_path: Path) -> None:
    """By the role's own configuration and the playbook's own task, with this machine for every host."""
    site = Signed(tmp_path, "signify")
    folder, key = site.folder, site.key("first")
    site.publish()
    (publish,) = [
        task | {"run_once": True}
        for task in yaml.safe_load((HOUSE / "playbooks/tasks/publish_list.yml").read_text())
        if task["name"] == "Publish on every redirector"
    ]
    (folder / "play.yml").write_text(PLAY.replace("PUBLISH", json.dumps([publish])))
    (folder / "ansible.cfg").write_text(
        f"[defaults]\nlibrary = {HOUSE}/library\naction_plugins = {HOUSE}/action_plugins\nroles_path = {HOUSE}/roles\n"
        f"filter_plugins = {HOUSE}/filter_plugins\n[inventory]\nenable_plugins = yaml\n"
    )
    # As the inventory has it: only the redirector knows what its inputs are, and the play begins with a mirror.
    of_redirectors = {
        "redirector_signing": {"tool": site.tool, "public_key": str(key / "list.pub"), "key": str(key / "list.sec")},
        "redirector_documents": str(site.documents), "redirector_health": site.config["health"],
        "redirector_registry": site.registry,
    }  # fmt: skip
    (folder / "hosts.yml").write_text(
        json.dumps(
            {
                "mirrors": {"hosts": {"a-mirror": {}}},
                "redirectors": {"hosts": {"list": {}}, "vars": of_redirectors},
            }
        )
    )
    given = {
        "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
        "list_json": str(folder / "by.json"), "host_state_directory": str(folder / "host_state"),
        "__redirector_registry_file": site.config["registry"], "__redirector_holds": site.config["holds"],
        "__redirector_state": str(folder / "state"), "__redirector_public_key_file": str(key / "list.pub"),
        "__redirector_signatures": str(folder / "signatures"),
        "__redirector_list_command": [
            "env", f"PYTHONPATH={HOUSE}/src", sys.executable, "-c", "from mirrorfleet.cli import main; main()",
            "list", "-c", str(folder / "by.json"),
        ],
    }  # fmt: skip
    (folder / "state").mkdir()
    (folder / "signatures").mkdir()

    run = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "play.yml", "-e", json.dumps(given)],
        cwd=folder, env=os.environ | {"ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert site.signatures == sorted(name + site.suffix for name in LISTS)
    assert all(site.holds(name) for name in LISTS)
    secret = (key / "list.sec").read_bytes().splitlines()[-1]
    kept = [path for path in folder.rglob("*") if path.is_file() and path.parent != key]
    assert not any(secret in path.read_bytes() for path in kept)


def test_a_line_that_is_not_the_inventorys_is_signed_by_nobody(minisign: Signed) -> None:
    key, good = str(minisign.key("first") / "list.sec"), "https://one.example.org/simple/"
    lists = {
        "mirrors.txt": f"{good}\n".encode(),
        "mirrors-ipv4.txt": f"{good}\nhttps://evil.example.org/\n".encode(),
    }

    def signed() -> dict[str, str]:
        encoded = {name: b64encode(data).decode() for name, data in lists.items()}
        return sign_lists.sign(encoded, [good], key, "minisign")

    with pytest.raises(sign_lists.SigningError, match=r"no active mirror of this inventory .b'https://evil"):
        signed()
    del lists["mirrors-ipv4.txt"]
    assert list(signed()) == ["mirrors.txt.minisig"]
    key = "/no/key"
    with pytest.raises(sign_lists.SigningError, match="cannot sign with /no/key"):
        signed()
