#!/usr/bin/python
"""Ask one host what it serves of an index that several may answer for, and whom it routes. See ask_index.yml."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule

SECONDS = 30
MOST = 8 << 20  # of a page
# Addresses for documentation, of a client of each family.
CLIENTS = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
PAGE = "application/vnd.pypi.simple.v1+json"


class Pinned(http.client.HTTPSConnection):
    """To one address, by whatever name the index is known."""

    def __init__(self, name: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(name, port, timeout=SECONDS, context=context)
        self.address, self.context = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self.address, self.port), SECONDS)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


class Index:
    """As one host serves it."""

    def __init__(self, params: dict[str, Any]) -> None:
        at = urlsplit(params["url"])
        self.name, self.port, self.address = at.hostname or "", at.port or 443, params["address"]
        self.context = ssl.create_default_context(cafile=params["ca_path"])

    def ask(self, method: str, path: str, *expected: int) -> bytes:
        connection = Pinned(self.name, self.port, self.address, self.context)
        try:
            connection.request(method, path, headers={"Accept": PAGE, "User-Agent": "mirrorfleet"})
            answer = connection.getresponse()
            body = answer.read(MOST)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status not in expected:
            raise ValueError(f"{path}: it answers {answer.status}")
        return body


def document(path: str, body: bytes, key: str) -> Any:
    try:
        found = json.loads(body)[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError(f"{path}: no list of {key} in what it answers")
    return found


def routed(index: Index, mirror: str, families: list[str]) -> dict[str, list[str]]:
    """The families over which it would send a client that prefers the mirror to it; and over which it could."""
    found: dict[str, list[str]] = {"routed": [], "could": []}
    for family in families:
        client = f"address={CLIENTS[family]}"
        preferred, plain = (
            document(asked, index.ask("GET", asked, 200), "candidates")
            for asked in (
                f"/route?file=/prefer/{quote(mirror)}/packages/x&{client}",
                f"/route?file=/packages/x&{client}",
            )
        )
        found["routed"] += [family] if mirror in preferred else []
        found["could"] += [family] if any(plain) else []
    # Of an index that sends nobody anywhere it is not known over which families it can.
    return found if found["could"] else found | {"could": families}


def result_of(params: dict[str, Any]) -> dict[str, Any]:
    """The module's whole result; `ValueError` says what is not as it has to be."""
    index = Index(params)
    if params["mirror"]:
        return routed(index, params["mirror"], params["families"])
    page = f"{urlsplit(params['url']).path.rstrip('/')}/{params['project']}/"
    files = document(page, index.ask("GET", page, 200), "files")
    urls = [one["url"] for one in files if isinstance(one, dict) and isinstance(one.get("url"), str)]
    if not urls:
        raise ValueError(f"{page}: it has no file")
    file = urlsplit(urljoin(f"{params['url'].rstrip('/')}/{params['project']}/", urls[-1])).path
    # From a mirror, or by the host itself.
    index.ask("HEAD", file, 200, 302)
    asked = f"/route?file={quote(file)}"
    return {
        "file": file,
        "candidates": [name for name in document(asked, index.ask("GET", asked, 200), "candidates") if name],
    }


ARGUMENTS: dict[str, Any] = {
    "url": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "project": {"type": "str"},
    "mirror": {"type": "str"},
    "families": {"type": "list", "elements": "str", "choices": list(CLIENTS), "default": list(CLIENTS)},
    "ca_path": {"type": "path", "default": "/etc/ssl/certs/ca-certificates.crt"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[["project", "mirror"]],
        required_one_of=[["project", "mirror"]],
    )
    try:
        found = result_of(module.params)
    except (ValueError, OSError) as error:
        module.fail_json(msg=f"{module.params['url']}, asked at {module.params['address']}, fails: {error}")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
