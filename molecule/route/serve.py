"""A mirror of a served tree on a port, over TLS. Run as: serve.py PORT."""

import http.server
import ssl
import sys


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments):
        super().__init__(*arguments, directory="/srv/mirror/served")


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/mirrorfleet/tls/fullchain.pem", "/etc/mirrorfleet/tls/privkey.pem")
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Files)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
