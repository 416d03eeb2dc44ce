"""A mail relay that wants STARTTLS and a password, and a webhook, both on loopback; each message becomes a file."""

import http.server
import itertools
import json
import ssl
import sys
import threading
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

CERTIFICATE, FOLDER = sys.argv[1], Path(sys.argv[2])
USER, PASSWORD = b"fleet", b"Kept-Secret-93f1"
COUNT = itertools.count(1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE)


def keep(kind, document):
    path = FOLDER / f".{next(COUNT):04d}"
    path.write_text(json.dumps(document))
    path.rename(FOLDER / f"{kind}-{path.name[1:]}.json")


class Relay:
    async def handle_DATA(self, server, session, envelope):
        mail = envelope.content.decode("ascii")
        tls, user = bool(session.ssl), session.auth_data.login.decode()
        keep(
            "mail",
            {"from": envelope.mail_from, "to": envelope.rcpt_tos, "mail": mail, "tls": tls, "user": user},
        )
        return "250 kept"


def authenticate(server, session, envelope, mechanism, given):
    return AuthResult(success=(given.login, given.password) == (USER, PASSWORD), auth_data=given)


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        keep("hook", {"path": self.path, "alert": json.loads(body)})
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *told):
        """Nothing: paths are secrets that the tests look for in the log."""


Controller(
    Relay(),
    "127.0.0.1",
    2525,
    tls_context=context,
    require_starttls=True,
    auth_required=True,
    authenticator=authenticate,
    auth_exclude_mechanism=["LOGIN"],  # its challenges are not those that Alertmanager knows
).start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), Hook)
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever).run()
