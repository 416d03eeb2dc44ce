"""nginx as the role web_server configures it, on loopback: from Debian's package, with other paths and ports."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.unit.test_web_server_templates import render

NGINX = Path(__file__).resolve().parents[1] / "build/nginx"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Nginx:
    """Over plain HTTP at `port`; names of upstreams are asked for at `resolver_port`."""

    NAME = "mirror.fleet.test"

    def __init__(
        self, folder: Path, certificate: Path, resolver_port: int = 53, name: str = NAME, **options: Any
    ) -> None:
        self.folder = folder
        given = {
            "web_server_names": [self.NAME],
            "web_server_served": str(folder / "served"),
            "web_server_plain_http": True,
            "web_server_cache_path": str(folder / "cache"),
            "web_server_cache_size": "100m",
            "web_server_cache_min_free": "1m",
            "nginx_address_families": ["ipv4"],
            "nginx_certificate": str(certificate),
            "nginx_certificate_key": str(certificate),
        }
        main = render(folder / "etc", "Debian-12", given | options)
        ports = {80: free_port(), 443: free_port()}
        for path in (folder / "etc").rglob("*"):
            if path.is_file() and path.suffix in ("", ".conf"):
                text = path.read_text()
                for port, ours in ports.items():
                    text = text.replace(f"listen {port}", f"listen 127.0.0.1:{ours}")
                text = text.replace("/var/log/nginx", str(folder)).replace("/run/nginx", f"{folder}/nginx")
                text = re.sub(r"resolver .*? valid", f"resolver 127.0.0.1:{resolver_port} valid", text)
                path.write_text(text.replace(self.NAME, name))
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        below = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        text = main.read_text().replace(
            "user www-data;", f"daemon off;\nload_module {NGINX}/usr/lib/nginx/modules/ngx_http_js_module.so;"
        )
        text = text.replace("include /etc/nginx/modules-enabled/*.conf;", "")
        text = text.replace("http {", f"http {{\n{below}", 1)
        main.write_text(text if os.geteuid() else f"user root;\n{text}")
        (folder / "cache").mkdir()
        (folder / "served").mkdir(exist_ok=True)
        self.port = ports[80]
        self._server = subprocess.Popen(
            [NGINX / "usr/sbin/nginx", "-p", folder, "-c", main, "-e", folder / "start.log"],
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 10
        while not self._listens():
            assert self._server.poll() is None, (folder / "start.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(10)
