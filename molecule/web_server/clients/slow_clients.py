"""Many slow clients from a hundred addresses, for thirty seconds. Run on a host: slow_clients.py TARGET FIRST NUMBER.

Half of them begin a TLS handshake, half a plain request, and none comes to an end: each sends a byte or a line now and
then, and comes back when it was thrown out. Prints twice a second how many connections it holds.
"""

import asyncio
import contextlib
import ipaddress
import signal
import subprocess
import sys

ADDRESSES, SECONDS, PAUSE = 100, 30, 2
KINDS = ((80, b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"), (443, b"\x16\x03\x01\x02\x00\x01", b"\x00"))


class Clients:
    def __init__(self, target, sources):
        self.target, self.sources, self.held = target, sources, 0

    async def one(self, at):
        port, first, more = KINDS[at % len(KINDS)]
        while True:
            try:
                source = (self.sources[at % len(self.sources)], 0)
                reader, writer = await asyncio.open_connection(self.target, port, local_addr=source)
            except OSError:
                await asyncio.sleep(PAUSE)
                continue
            self.held += 1
            with contextlib.suppress(OSError):
                writer.write(first)
                while not reader.at_eof():
                    await asyncio.sleep(PAUSE)
                    writer.write(more)
                    await writer.drain()
            self.held -= 1
            writer.close()

    async def all(self, number):
        clients = [asyncio.create_task(self.one(at)) for at in range(number)]
        for _ in range(SECONDS * 2):
            await asyncio.sleep(0.5)
            print(self.held, flush=True)
        for client in clients:
            client.cancel()


def main():
    target, first, number = sys.argv[1], ipaddress.ip_address(sys.argv[2]), int(sys.argv[3])
    sources = [str(first + at) for at in range(ADDRESSES)]
    command = "\n".join(f"address replace {source}/24 dev eth0" for source in sources)
    subprocess.run(["ip", "-batch", "-"], input=command, text=True, check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the addresses go in any case
    try:
        asyncio.run(Clients(target, sources).all(number))
    finally:
        subprocess.run(["ip", "-batch", "-"], input=command.replace("replace", "del"), text=True, check=True)


if __name__ == "__main__":
    main()
