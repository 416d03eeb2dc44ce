"""The configuration of a mirror's nginx, rendered as Ansible renders it, and nginx by it (faults/nginx.py).

Run as `python -m tests.nginx_material FOLDER` it makes one for each platform: FOLDER/Debian-13 and FOLDER/Debian-12.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from faults import nginx
from faults.nginx import OF_ONE_TYPE, PLACE

from tests.unit.test_web_server_templates import render


def configure(folder: Path, platform: str, **options: Any) -> Path:
    """/etc/nginx in a folder, with PLACE in all paths."""
    given = {
        "web_server_names": [nginx.Nginx.NAME],
        "web_server_served": f"{PLACE}/served",
        "web_server_plain_http": True,
        "web_server_cache_path": f"{PLACE}/cache",
        "web_server_cache_size": "100m",
        "web_server_cache_min_free": "1m",
        "nginx_address_families": ["ipv4"],
        "nginx_certificate": f"{PLACE}/certificate.pem",
        "nginx_certificate_key": f"{PLACE}/certificate.pem",
    }
    main = render(folder, platform, given | options)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in ("", ".conf"):
            text = path.read_text().replace(str(folder), f"{PLACE}/etc")
            path.write_text(text.replace("/var/log/nginx", PLACE).replace("/run/nginx", f"{PLACE}/nginx"))
    text = main.read_text().replace("user www-data;", "daemon off;")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    below = "".join(f"{kind}_temp_path {PLACE}/{kind};\n" for kind in kinds)
    text = text.replace("include /etc/nginx/modules-enabled/*.conf;", "")
    main.write_text(text.replace("http {", f"http {{\n{below}", 1))
    return folder


def everybody_may(platform: str, folder: Path) -> Path:
    """One of a mirror that limits nobody here: of a served tree, for tests that read all the while."""
    configure(folder, platform, web_server_unlimited_networks=["127.0.0.0/8"])
    of_one_type(folder)
    return folder


def of_one_type(folder: Path) -> None:
    """Servers beside it that ask it for one type, whatever they are asked for."""
    main = folder / "nginx.conf"
    servers = "".join(
        f"server {{ listen {port}; location / {{ proxy_pass http://80; proxy_set_header Host $http_host;"
        f" proxy_set_header Accept {kind}; }} }}\n"
        for kind, port in OF_ONE_TYPE.items()
    )
    main.write_text(main.read_text().replace("http {", f"http {{\n{servers}", 1))


@cache
def made() -> Path:
    """The same for this machine."""
    return everybody_may("Debian-12", Path(mkdtemp(prefix="nginx-configuration-")))


class Names(threading.Thread):
    """A DNS server for which every name is 127.0.0.1: nginx asks one, and knows no /etc/hosts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self) -> None:
        while True:
            query, client = self.socket.recvfrom(512)
            kind = query[query.index(b"\0", 12) + 1 :][:2]
            answers = int(kind == b"\0\1")
            head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, answers, 0, 0)
            record = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 60, 4) + b"\x7f\0\0\1"
            question = query[12 : query.index(b"\0", 12) + 5]
            self.socket.sendto(head + question + record * answers, client)


class Nginx(nginx.Nginx):
    """One that is configured for its test alone."""

    def __init__(
        self,
        folder: Path,
        certificate: Path,
        resolver_port: int = 53,
        name: str = nginx.Nginx.NAME,
        replaced: Mapping[str, str] | None = None,
        modules: tuple[str, ...] = ("js",),
        **options: Any,
    ) -> None:
        configuration = configure(folder / "configuration", "Debian-12", **options)
        of_one_type(configuration)
        for path in configuration.rglob("*.conf"):
            text = path.read_text()
            for one, other in (replaced or {}).items():
                text = text.replace(one, other)
            path.write_text(text)
        super().__init__(
            folder, configuration, certificate, name=name, resolver_port=resolver_port, modules=modules
        )


if __name__ == "__main__":
    for each in ("Debian-13", "Debian-12"):
        everybody_may(each, Path(sys.argv[1]) / each)
