"""On the clients' PYTHONPATH: names of the scenario's hosts, which the control node's resolver does not know."""

import os
import socket

ADDRESSES = dict(pair.split("=") for pair in os.environ["TEST_ADDRESSES"].split())
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **options: resolve(ADDRESSES.get(host, host), *rest, **options)
