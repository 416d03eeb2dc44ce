"""make bench-web: a mirror's web server beside bare nginx and beside other index servers, all on one host.

The host is a Debian 13 of the sandbox, provisioned by the role web_server. What loads it runs on it too, so that
nothing but the host is measured. SIZE=quick takes about two minutes, SIZE=full is what documents quote.
"""

from __future__ import annotations

import json
from typing import Any

from report import FULL, Row, publish, say
from sandbox import Sandbox

ROUNDS, SECONDS = (7, 4) if FULL else (3, 1)
GOAL = 0.95


def rows(found: dict[str, Any]) -> list[Row]:
    version, memory = found["nginx"], found["memory"]
    result = []
    for what, seen in found["against bare"].items():
        ours, bare = seen["ours"], seen["bare"]
        result += [
            Row(
                what, ours["requests"], bare["requests"], "bare nginx", version, "requests/s", GOAL, "higher"
            ),
            Row(f"{what}, p99", ours["p99"], bare["p99"], "bare nginx", version, "ms"),
            Row(f"{what}, CPU", ours["cpu"], bare["cpu"], "bare nginx", version, "us/request"),
        ]
    result.append(Row("memory of all processes", memory["ours"], memory["bare"], "bare nginx", version, "MB"))
    for name, peer in found["peers"].items():
        for what in ("small page", "1 MB page", "300 kB wheel"):
            ours = found["against bare"][f"{what}, keep-alive"]["ours"]
            for figure, unit, better in (("requests", "requests/s", "higher"), ("p99", "ms", "lower")):
                label = what if figure == "requests" else f"{what}, p99"
                theirs, shown = peer[what][figure], f"{name} (plain HTTP)"
                result.append(Row(label, ours[figure], theirs, shown, peer["version"], unit, None, better))
        result.append(
            Row("memory of all processes", memory["ours"], peer["memory"], name, peer["version"], "MB")
        )
    return result


def main() -> None:
    sandbox = Sandbox("bench-web", "bench_web")
    sandbox.fetch_peers()
    with sandbox.hosts():
        say(f"load, {ROUNDS} rounds of {SECONDS} s")
        command = f"sudo python3 /opt/web_load.py {ROUNDS} {SECONDS}"
        found: dict[str, Any] = json.loads(sandbox.ssh("the load", "debian-13", command))
    publish("web", rows(found))


if __name__ == "__main__":
    main()
