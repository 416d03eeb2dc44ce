"""An upstream: a served tree over HTTP with faults on demand. What mirrors serve is read through nginx.

The port that it found is written to a file. The faults are a JSON file, read for each request: {"regular
expression on the path": fault}, where a fault is an HTTP status, "corrupt", "truncate", "hang", "slow", "stale",
{"redirect": URL}, {"body": text, "type": content type}, or {"megabytes": number, "type": content type}, of which no
length is told.
"""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

from aiohttp import web

JSON_TYPE = "application/vnd.pypi.simple.v1+json"


class Site:
    def __init__(self, tree: Path, faults: Path | None) -> None:
        self.tree = tree
        self.faults = faults

    def fault(self, path: str) -> Any:
        if self.faults is None or not self.faults.exists():
            return None
        for pattern, fault in json.loads(self.faults.read_text()).items():
            if re.search(pattern, path):
                return fault
        return None

    async def respond(self, request: web.Request) -> web.StreamResponse:
        # One resolved path for serial and content, as nginx does: they switch together.
        path = request.path
        kind = "application/octet-stream"
        if path in ("/simple", "/simple/") or path.startswith("/simple/"):
            if path != "/simple" and not path.endswith("/"):
                raise web.HTTPMovedPermanently(request.path + "/")
            wants_json = JSON_TYPE in request.headers.get("Accept", "")
            kind = JSON_TYPE if wants_json else "text/html"
            path = path.rstrip("/") + ("/index.v1_json" if wants_json else "/index.html")
        elif path.startswith("/pypi/"):
            kind = "application/json"
        file = Path(os.path.realpath(self.tree / path[1:]))
        fault = self.fault(request.path)
        if isinstance(fault, int):
            return web.Response(status=fault)
        if isinstance(fault, dict) and "redirect" in fault:
            raise web.HTTPFound(fault["redirect"])
        if isinstance(fault, dict) and "megabytes" in fault:
            response = web.StreamResponse(headers={"Content-Type": fault["type"]})
            await response.prepare(request)
            for _ in range(fault["megabytes"]):
                await response.write(b" " * (1 << 20))
            return response
        if isinstance(fault, dict):
            return web.Response(body=fault["body"].encode(), content_type=fault["type"])
        if fault == "hang":
            await asyncio.sleep(3600)
        if not file.is_file() or self.tree not in file.parents:
            raise web.HTTPNotFound
        headers = {"Content-Type": kind}
        if serial := re.search(r"/s-(\d+)-[0-9a-f]+/", str(file)):
            headers["X-PyPI-Last-Serial"] = "1" if fault == "stale" else serial[1]
        data = file.read_bytes()
        if fault == "corrupt":
            data = bytes([data[0] ^ 255]) + data[1:]
        if fault in ("truncate", "slow"):
            response = web.StreamResponse(headers=headers | {"Content-Length": str(len(data))})
            await response.prepare(request)
            if fault == "truncate":
                await response.write(data[: len(data) // 2])
                assert request.transport is not None
                request.transport.abort()
                return response
            for start in range(0, len(data), max(1, len(data) // 20)):
                await response.write(data[start : start + max(1, len(data) // 20)])
                await asyncio.sleep(0.05)
            await response.write_eof()
            return response
        return web.Response(body=data, headers=headers)


async def serve(tree: Path, port_file: Path, faults: Path | None) -> None:
    application = web.Application()
    application.router.add_get("/{path:.*}", Site(tree.resolve(), faults).respond)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(port))
    temporary.replace(port_file)
    await asyncio.Event().wait()


def run(tree: Path, port_file: Path, faults: Path | None = None) -> None:
    asyncio.run(serve(tree, port_file, faults))
