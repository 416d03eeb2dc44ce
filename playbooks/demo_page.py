#!/usr/bin/env python3
"""Open the local fleet's status page in a browser of this machine: `make demo-page`.

The page's name exists in the fleet's own network only, and its certificate is of the fleet's own authority. Instead of
teaching a browser both, this asks the redirector, with the certificate verified, and hands on the answers in plain HTTP
on loopback: any browser shows them, and one of another machine does through `ssh -L`.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import socket
import ssl
import sys
import threading
import webbrowser
from pathlib import Path
from urllib.parse import urlsplit

PORT = 8089
# Of one connection, or only true of HTTPS.
NOT_HANDED_ON = {"connection", "keep-alive", "transfer-encoding", "strict-transport-security", "alt-svc"}


class Connection(http.client.HTTPSConnection):
    """To a server whose name only the fleet's own network knows, at a known address."""

    def __init__(self, name: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(name, port, timeout=10, context=context)
        self.address, self.verifying = address, context

    def connect(self) -> None:
        plain = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = self.verifying.wrap_socket(plain, server_hostname=self.host)


class Forwarder(http.server.ThreadingHTTPServer):
    """On loopback, a server's answers to GET and HEAD."""

    def __init__(self, url: str, address: str, authority: Path, port: int = 0) -> None:
        self.origin, self.address = urlsplit(url), address
        self.context = ssl.create_default_context(cafile=authority)
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def ask(self, method: str, path: str, accept: str) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = Connection(
            self.origin.hostname or "", self.origin.port or 443, self.address, self.context
        )
        try:
            connection.request(method, path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Forwarder

    def do_GET(self) -> None:
        try:
            status, headers, body = self.server.ask(
                self.command, self.path, self.headers.get("Accept", "*/*")
            )
        except (OSError, http.client.HTTPException) as error:
            self.send_error(502, explain=f"{self.server.origin.geturl()} at {self.server.address}: {error}")
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() == "location":
                self.send_header(
                    name, value.replace(f"https://{self.server.origin.netloc}/", self.server.url)
                )
            elif name.lower() not in NOT_HANDED_ON:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 (the standard library's name)

    def log_message(self, *_: object) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description="Open a fleet's status page in a browser of this machine.")
    parser.add_argument("url", help="the page, as the fleet names it")
    parser.add_argument("address", help="of the host that serves it")
    parser.add_argument("authority", type=Path, help="file with the certificate of the fleet's authority")
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"on loopback; else a free one (default {PORT})"
    )
    arguments = parser.parse_args()
    try:
        server = Forwarder(arguments.url, arguments.address, arguments.authority, arguments.port)
    except FileNotFoundError:
        return complain(
            f"{arguments.authority} is not there: no local fleet of this checkout runs. `make demo` makes one."
        )
    except OSError:  # in use
        server = Forwarder(arguments.url, arguments.address, arguments.authority)
    try:
        status, _, _ = server.ask("HEAD", "/", "*/*")
    except (OSError, http.client.HTTPException) as error:
        return complain(
            f"{arguments.url} at {arguments.address} does not answer ({error}). Did `make demo` end well?"
        )
    if status != 200:
        return complain(f"{arguments.url} answers {status}, and not with a page. Did `make demo` end well?")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{arguments.url} is at {server.url} as long as this runs; Ctrl-C ends it.", flush=True)
    if not webbrowser.open(server.url):
        print(
            "No browser was found here. Open the address in one yourself; from another machine, after"
            f"\n  ssh -N -L {server.server_port}:127.0.0.1:{server.server_port} {socket.gethostname()}",
            flush=True,
        )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    return 0


def complain(words: str) -> int:
    print(words, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
