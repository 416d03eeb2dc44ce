"""What the tests of this scenario share: a mirror as a bare client sees it, and clients that nobody here wrote."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
from pathlib import Path

HOUSE = Path(__file__).parents[3]
CLIENTS = HOUSE / "build/clients/bin"
SAMPLE_FILES = {
    "fleet-sample-1.1.tar.gz",
    "fleet_sample-1.0-py3-none-any.whl",
    "fleet_sample-1.1-py3-none-any.whl",
}
# On the hosts themselves.
INSTALLERS = {
    "pip": "PYTHONPATH=/opt/pip.zip python3 -m pip --isolated install --no-cache-dir"
    " --cert {ca} --target {to} --index-url {index} {what}",
    "uv": "SSL_CERT_FILE={ca} uv pip install --no-config --no-cache --target {to} --default-index {index} {what}",
}
POETRY_PROJECT = """
[project]
name = "consumer"
version = "1"
requires-python = ">=3.11"
dependencies = {projects}

[tool.poetry]
package-mode = false

[[tool.poetry.source]]
name = "mirror"
url = "{index}"
priority = "primary"
"""


def of_host(name):
    """The host's own project, and the one that only the other host has."""
    own = f"only-on-{name[-2:]}"
    return own, {"only-on-13": "only-on-12", "only-on-12": "only-on-13"}[own]


def clients(scenario, folder, *command, **options):
    """Runs a client on the control node, which is told where the hosts' names lie."""
    authority = str(scenario.dir / "site/ca.pem")
    done = subprocess.run(
        [str(part) for part in command],
        # Who has an environment active does not mean these clients to sync it.
        env={
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy") and name != "VIRTUAL_ENV"
        }
        | {
            "PYTHONPATH": str(HOUSE / "molecule/web_server/clients"),
            "TEST_ADDRESSES": " ".join(
                f"{host.name}.fleet.test={host.ipv4}" for host in scenario.hosts.values()
            ),
            "REQUESTS_CA_BUNDLE": authority,
            "SSL_CERT_FILE": authority,
            "HOME": str(folder),
            "POETRY_CACHE_DIR": str(folder / "cache"),
            "POETRY_VIRTUALENVS_IN_PROJECT": "true",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_pypi_simple(scenario, name, projects, listed, folder):
    """Each project in both formats: the same files, and what each says of itself was verified by pypi-simple."""
    found = json.loads(
        clients(
            scenario,
            folder,
            CLIENTS / "python",
            HOUSE / "molecule/web_server/clients/read_index.py",
            f"https://{name}.fleet.test/simple/",
            *projects,
        )
    )
    assert set(found) == {"html", "json"}
    for seen in found.values():
        assert seen["listed"] == listed
        assert set(seen["projects"]) == set(projects)
    for project in projects:
        html, document = (found[name]["projects"][project] for name in ("html", "json"))
        assert html["files"] == document["files"]
        assert html["serial"] == document["serial"]
        assert html["api"].startswith("1.") and document["api"].startswith("1.")
        wheels = [file for name, file in document["files"].items() if name.endswith(".whl")]
        assert wheels and all("Metadata-Version" in file["metadata"] for file in wheels)
        assert {file["requires_python"] for file in document["files"].values()} == {">=3.8"}
    if "fleet-sample" in projects:
        assert set(found["html"]["projects"]["fleet-sample"]["files"]) == SAMPLE_FILES


def check_poetry(scenario, name, projects, folder):
    folder.mkdir()
    index = f"https://{name}.fleet.test/simple/"
    (folder / "pyproject.toml").write_text(POETRY_PROJECT.format(projects=json.dumps(projects), index=index))
    for verb in ("lock", "sync"):
        clients(scenario, folder, CLIENTS / "poetry", verb, "--no-interaction", "--quiet", cwd=folder)
    installed = {path.name for path in folder.glob(".venv/lib/*/site-packages/*")}
    assert {project.replace("-", "_") for project in projects} <= installed


def check_installers(host, name, projects, installers=tuple(INSTALLERS)):
    wanted = " ".join(project.replace("-", ".").title() for project in projects)
    modules = [project.replace("-", "_") for project in projects]
    versions = [f"{module}.VERSION" for module in modules]
    for installer in installers:
        to, index = f"/tmp/by-{installer}", f"https://{name}.fleet.test/simple/"
        install = INSTALLERS[installer].format(
            ca="/etc/mirrorfleet/tls/ca.pem", to=to, index=index, what=wanted
        )
        said = host.check_output(
            f"rm -rf {to} && {install} >&2 && "
            f"PYTHONPATH={to} python3 -c 'import {', '.join(modules)}; print({', '.join(versions)})'"
        )
        assert said.split() == ["1.1" if project == "fleet-sample" else "2.0" for project in projects]


class Mirror:
    """HTTP/1.1 to one host's address, under any name."""

    def __init__(self, variables):
        self.site = Path(variables["sandbox_dir"]) / "site"
        self.host = variables["inventory_hostname"]
        self.name = f"{self.host}.fleet.test"
        self.address = variables["ansible_host"]
        self.address6 = f"{variables['sandbox_ipv6_prefix']}::{self.address.rsplit('.', 1)[1]}"
        self.other = {"debian-13": "debian-12", "debian-12": "debian-13"}[self.host]
        self.tree = self.site / self.host / "served"
        self.own = f"only-on-{self.host[-2:]}"
        self.lacking = f"only-on-{self.other[-2:]}"
        self.tls = ssl.create_default_context(cafile=str(self.site / "ca.pem"))

    def connect(self, *, name=None, address=None, tls=None, port=443):
        plain = socket.create_connection((address or self.address, port), timeout=20)
        if port == 80:
            return plain
        return (tls or self.tls).wrap_socket(plain, server_hostname=name or self.name)

    def raw(self, request, **options):
        """Everything the server answers to these bytes."""
        with self.connect(**options) as connection:
            connection.sendall(request)
            answer = b""
            with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
                while part := connection.recv(65536):
                    answer += part
        return answer

    def request(self, method, path, headers=None, *, body=None, port=443, **options):
        connection = http.client.HTTPConnection(self.address, port)
        connection.sock = self.connect(port=port, **options)
        connection.request(method, path, body, {"Host": self.name, **(headers or {})})
        response = connection.getresponse()
        response.body = response.read()
        connection.close()
        return response

    def get(self, path, accept=None, **headers):
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.request("GET", path, headers | ({"Accept": accept} if accept else {}))
