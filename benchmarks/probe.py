"""A thousand mirrors probed within one interval by one monitor on one core; the mirrors are simulated here.

The simulated mirrors (one process, on the other core) speak TLS and HTTP as a mirror does: each name has a
certificate that the monitor verifies. No peer does the same checks; the goal of the design stands where one would.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from report import FULL, ROOT, Row, publish, say

sys.path.insert(0, str(ROOT / "tests"))

from listing_material import record, registry
from mirror_material import Mirror

MIRRORS = 1000
INTERVAL = 60
ROUNDS = 3 if FULL else 1


def certificate(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and one for every name below example.test."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("Authority", "mirror")]
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = []
    for at, (key, name) in enumerate(zip(keys, names, strict=True)):
        builder = (
            x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
        )  # fmt: skip
        if at == 0:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            builder = builder.add_extension(usage, critical=True)
        else:
            alternative = x509.SubjectAlternativeName([x509.DNSName("*.example.test")])
            builder = builder.add_extension(alternative, critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()))
    authority, leaf = folder / "ca.pem", folder / "leaf.pem"
    authority.write_bytes(made[0].public_bytes(serialization.Encoding.PEM))
    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    leaf.write_bytes(private + made[1].public_bytes(serialization.Encoding.PEM))
    return authority, leaf


class Request:
    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ", 2)
        self.headers = dict(line.split(": ", 1) for line in lines if line)


async def serve(leaf: Path, port_file: Path) -> None:
    """Simulated mirrors, all on one port of both loopback addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf)
    mirror = Mirror()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = Request((await reader.readuntil(b"\r\n\r\n"))[:-4])
                status, headers, body = mirror(request)
                mirror.asked.clear()
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
                writer.write(b"" if request.method == "HEAD" else body)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    first = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context, backlog=1000)
    port = first.sockets[0].getsockname()[1]
    await asyncio.start_server(answer, "::1", port, ssl=context, backlog=1000)
    port_file.write_text(str(port))
    await first.serve_forever()


def measure(folder: Path, port: int, authority: Path) -> dict[str, float]:
    """One interval of the service, on one core: rounds, seconds of CPU, how late it was, memory."""
    known = registry("x")
    known["mirrors"] = []
    for at in range(MIRRORS):
        url = f"https://m{at}.example.test:{port}"
        known["mirrors"].append(record(f"m{at}", url=url, urls=[url]))
    config: dict[str, Any] = {
        "name": "bench", "registry": str(folder / "registry.json"), "state": str(folder / "state"),
        "health": str(folder / "health.json"), "ca_file": str(authority), "interval": INTERVAL,
        "metrics": str(folder / "probe.prom"),
        # Each round asks for a known project, and for another one that was drawn.
        "reference": {
            "url": f"https://index.example.test:{port}", "projects": ["six"], "carries": ["six", "attrs"],
        },
        "connect_to": {f"m{at}": ["127.0.0.1", "::1"] for at in range(MIRRORS)} | {"reference": ["127.0.0.1"]},
    }  # fmt: skip
    (folder / "registry.json").write_text(json.dumps(known))
    (folder / "monitor.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", "mirrorfleet.cli", "probe", "-c", str(folder / "monitor.json")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    # One interval and the tenth by which a round may be put off.
    time.sleep(INTERVAL * 1.1 + 5)
    process.send_signal(signal.SIGTERM)
    assert process.stdout
    process.stdout.read()
    _, _, used = os.wait4(process.pid, 0)
    seen = json.loads((folder / "health.json").read_text())["mirrors"]
    return {
        "probed": float(len(seen)),
        "well": float(sum(one["bad"] == 0 for one in seen.values())),
        "cpu": (used.ru_utime + used.ru_stime) / 1.1,
        "memory": used.ru_maxrss / 1024,
        "round": statistics.median(one["day"]["duration"] for one in seen.values()),
    }


def main() -> None:
    seen = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority, leaf = certificate(folder)
        simulated = subprocess.Popen([sys.executable, __file__, "serve", str(leaf), str(folder / "port")])
        try:
            while not (folder / "port").exists():
                time.sleep(0.05)
            time.sleep(0.2)
            port = int((folder / "port").read_text())
            for at in range(ROUNDS):
                (folder / str(at)).mkdir()
                seen.append(measure(folder / str(at), port, authority))
        finally:
            simulated.kill()
            simulated.wait()
    found = {key: statistics.median(one[key] for one in seen) for key in seen[0]}
    version = sys.version.split()[0]
    rows = [
        Row(
            "mirrors found well in 60 s",
            found["well"],
            MIRRORS,
            "the design's goal",
            version,
            "mirrors",
            1,
            "higher",
        ),
        Row("CPU of one core for it", found["cpu"], INTERVAL, "the design's limit", version, "s", 1),
    ]
    publish("probe", rows)
    say(
        f"{found['memory']:.0f} MB, a round takes {1000 * found['round']:.0f} ms: two families, about 9 requests each"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        main()
