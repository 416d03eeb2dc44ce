"""nginx on loopback, as the role web_server configures it: Debian's program, with other paths and ports.

The configuration is made where Ansible is (tests/nginx_material.py). Hosts that have none are given one, and are told
where by NGINX_CONFIGURATION.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

PLACE = "/place-of-this-nginx"  # in configurations, the folder of the one that runs by it
# Where it answers, by its own negotiation, as to a client that asks for one type: pip and uv ask for JSON first.
OF_ONE_TYPE = {"text/html": 8081, "application/vnd.pypi.simple.v1+html": 8082}
_PORT = re.compile(r"(listen |proxy_pass http://)([0-9]+)\b")
OURS = Path(__file__).resolve().parents[2] / "build/nginx"
ROOT = OURS if OURS.exists() else Path("/")


def free_ports(number: int) -> list[int]:
    """That many, each another: the kernel gives one again as soon as nobody holds it."""
    with ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(listener.getsockname()[1]) for listener in listeners]


def self_signed(path: Path, *names: str) -> Path:
    """Key and certificate, of `names` or for nginx to start with: faults are asked for over plain HTTP."""
    certificate = path.with_suffix(".crt")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path]
    command = ["openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=localhost", "-out", certificate]
    if names:
        command += ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + certificate.read_text())
    return path


class Nginx:
    """Over plain HTTP at `port`, under `name`; names of upstreams are asked for at `resolver_port`."""

    NAME = "mirror.fleet.test"

    def __init__(
        self,
        folder: Path,
        configuration: Path,
        certificate: Path,
        *,
        served: Path | None = None,
        name: str = NAME,
        resolver_port: int = 53,
        modules: tuple[str, ...] = ("js",),
    ) -> None:
        self.folder = folder
        wanted = (80, 443, *OF_ONE_TYPE.values())
        ports = {str(port): free for port, free in zip(wanted, free_ports(len(wanted)), strict=True)}
        replaced = {
            f"{PLACE}/certificate.pem": str(certificate),
            f"{PLACE}/served": str(served or folder / "served"),
            PLACE: str(folder),
            self.NAME: name,
        }
        shutil.copytree(configuration, folder / "etc")
        for path in (folder / "etc").rglob("*"):
            if path.is_file() and path.suffix in ("", ".conf"):
                text = path.read_text()
                for ours, here in replaced.items():
                    text = text.replace(ours, here)
                text = re.sub(r"resolver .*? valid", f"resolver 127.0.0.1:{resolver_port} valid", text)
                path.write_text(_PORT.sub(lambda found: f"{found[1]}127.0.0.1:{ports[found[2]]}", text))
        main = folder / "etc/nginx.conf"
        loaded = "".join(
            f"load_module {ROOT}/usr/lib/nginx/modules/ngx_http_{one}_module.so;\n" for one in modules
        )
        main.write_text(("" if os.geteuid() else "user root;\n") + loaded + main.read_text())
        for path in ("cache", "served"):
            (folder / path).mkdir(exist_ok=True)
        self.port, self.tls_port = ports["80"], ports["443"]
        self.url = f"http://{name}:{self.port}"
        self.of_one_type = {kind: f"http://{name}:{ports[str(port)]}" for kind, port in OF_ONE_TYPE.items()}
        self.command = [ROOT / "usr/sbin/nginx", "-p", folder, "-c", main, "-e", folder / "start.log"]
        self.start()

    def start(self) -> None:
        for left in self.folder.glob("*.sock"):  # by one that was killed, which the unit clears away, too
            left.unlink()
        self._server = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 60
        while not self._listens():
            assert self._server.poll() is None, (self.folder / "start.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def answers(self, yes: bool) -> None:
        """Whether it does, until told otherwise; who asks it meanwhile waits."""
        for worker in self._workers():
            os.kill(int(worker), signal.SIGCONT if yes else signal.SIGSTOP)

    def _workers(self) -> list[str]:
        return Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()

    def kill(self) -> None:
        """With its workers, at once, and without waiting: what they asked upstream may be what kills them."""
        os.killpg(self._server.pid, signal.SIGKILL)

    def memory(self) -> int:
        """The most that any of its workers had, in bytes."""
        told = (Path(f"/proc/{worker}/status").read_text() for worker in self._workers())
        return max(int(found[1]) << 10 for text in told if (found := re.search(r"VmHWM:\s+(\d+) kB", text)))

    def start_again(self) -> None:
        self._server.wait(30)
        until = time.monotonic() + 30
        while self._listens():  # a worker that was killed with it, and is not gone yet
            assert time.monotonic() < until
            time.sleep(0.01)
        self.start()

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(10)


@cache
def configuration() -> Path:
    """What this host was given, or else one that is made here, once."""
    if given := os.environ.get("NGINX_CONFIGURATION"):
        return Path(given)
    house = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(house), str(house / "filter_plugins")]
    from tests.nginx_material import made  # noqa: PLC0415 - needs Ansible

    return made()


def over(tree: Path, folder: Path) -> Nginx:
    """A mirror's web server over its served tree."""
    folder.mkdir()
    return Nginx(folder, configuration(), self_signed(folder / "key.pem"), served=tree, name="localhost")
