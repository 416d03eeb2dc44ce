"""On the host of `make bench-web`: asks our server, bare nginx and the peers in turn, and prints what was seen as JSON.

Run as: web_load.py ROUNDS SECONDS. Servers listen on loopback; every wait and every load ends by itself.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from peer_servers import ACCEPT, DATA, STARTUP_SECONDS, devpi, fetch, linked_wheel, proxpi, running, version

ROUNDS, SECONDS = int(sys.argv[1]), float(sys.argv[2])
SERVED = Path("/srv/mirror/served")
OURS, BARE = "https://mirror.fleet.test", "https://127.0.0.1:8443"


@dataclass
class Seen:
    """What one server did for one kind of request, a number for each round."""

    requests: list[float] = field(default_factory=list)  # per second
    p99: list[float] = field(default_factory=list)  # ms
    cpu: list[float] = field(default_factory=list)  # us of the server's processes for a request

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in vars(self).items()}


def processes(master: int) -> list[int]:
    """A process and all below it."""
    below = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return [master] + [pid for child in below for pid in processes(int(child))]


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def megabytes(pids: list[int]) -> float:
    """Memory of processes, of what they share each its share."""
    text = "".join(Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(size) for size in re.findall(r"^Pss: +(\d+) kB", text, re.M)) / 1024


def load(seen: Seen, url: str, pids: list[int], headers: dict[str, str]) -> None:
    """One round; the load generator has a thread for each core, like nginx. Who answers nothing in time gets more."""
    arguments = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    for patience in (1, 5, 25):
        seconds = SECONDS * patience
        before = cpu_seconds(pids)
        said = subprocess.run(
            ["wrk", "--threads", "2", "--connections", "16", "--duration", f"{seconds:g}s", "--timeout", "30s",
             "--latency", *arguments, url],
            capture_output=True, text=True, check=True, timeout=seconds + 60,
        ).stdout  # fmt: skip
        number = re.search(r"(\d+) requests in", said)
        rate = re.search(r"Requests/sec: +([\d.]+)", said)
        late = re.search(r"99% +([\d.]+)(us|ms|s|m)\b", said)
        if number and rate and late and int(number[1]) and "Non-2xx" not in said:
            seen.requests.append(float(rate[1]))
            seen.p99.append(float(late[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[late[2]])
            seen.cpu.append((cpu_seconds(pids) - before) / int(number[1]) * 1e6)
            return
    sys.exit(f"{url} did not answer as it should:\n{said}")


def page(project: str) -> str:
    return str(next(SERVED.glob(f"pages/{project}/s-*/simple/index.v1_json")).relative_to(SERVED))


def against_bare() -> dict[str, dict[str, dict[str, float]]]:
    """The same files from both: once over and over on the same connections, once by a new connection each."""
    wheel = str(next(SERVED.glob("packages/*/*/*/small-1.0-*.whl")).relative_to(SERVED))
    paths = {
        "small page": ("simple/small/", page("small")),
        "1 MB page": ("simple/large/", page("large")),
        "300 kB wheel": (wheel, wheel),
    }
    workers = [processes(int(Path(name).read_text())) for name in ("/run/nginx.pid", "/run/bare.pid")]
    found = {}
    for name, (ours, bare) in paths.items():
        urls = f"{OURS}/{ours}", f"{BARE}/{bare}"
        answers = [fetch(url, check_hostname=not url.startswith(BARE)) for url in urls]
        if answers[0][1] != answers[1][1]:
            sys.exit(f"{urls[0]} and {urls[1]} are not the same")
        tags = [headers["ETag"] for headers, _ in answers]
        for kind in ("", ", unchanged (304)"):
            if kind and name != "small page":
                continue
            for kept in (True, False):
                seen = Seen(), Seen()
                for _ in range(ROUNDS):
                    for at in (0, 1):
                        headers = {"Accept": ACCEPT} | ({} if kept else {"Connection": "close"})
                        headers |= {"If-None-Match": tags[at]} if kind else {}
                        load(seen[at], urls[at], workers[at], headers)
                how = "keep-alive" if kept else "new connections"
                found[f"{name}{kind}, {how}"] = {"ours": seen[0].medians(), "bare": seen[1].medians()}
    return found


def peer(name: str, base: str, pid: int) -> dict[str, object]:
    """What a peer does for its own page and for a wheel as its page links it."""
    url = f"{base}/small/"
    wanted = next(SERVED.glob("packages/*/*/*/small-1.0-*.whl")).read_bytes()
    wheel = linked_wheel(url)
    deadline = time.monotonic() + STARTUP_SECONDS
    while fetch(wheel)[1] != wanted:
        if time.monotonic() > deadline:
            sys.exit(f"{name} serves another file at {wheel}")
        time.sleep(0.5)
    found: dict[str, object] = {}
    for what, target in (("small page", url), ("1 MB page", f"{base}/large/"), ("300 kB wheel", wheel)):
        fetch(target)  # once, so that it is in the peer's cache
        seen = Seen()
        for _ in range(max(1, ROUNDS // 2)):
            load(seen, target, processes(pid), {"Accept": ACCEPT})
        found[what] = seen.medians()
    found["memory"] = megabytes(processes(pid))
    found["version"] = version(name)
    return found


def peers() -> dict[str, dict[str, object]]:
    """By plain HTTP, as they come; they are spared TLS, which is in their favour."""
    found = {}
    packages = DATA / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for file in SERVED.glob("packages/*/*/*/*.whl"):
        (packages / file.name).unlink(missing_ok=True)
        os.link(file, packages / file.name)
    with running(
        "pypiserver", 8001, "-m", "pypiserver", "run", "--interface", "127.0.0.1", "--port", "8001",
        "--disable-fallback", "--authenticate", ".", "--passwords", ".", str(packages),
    ) as pid:  # fmt: skip
        found["pypiserver"] = peer("pypiserver", "http://127.0.0.1:8001/simple", pid)
    with proxpi(f"{OURS}/simple/", PROXPI_DOWNLOAD_TIMEOUT="30") as (base, pid):
        found["proxpi"] = peer("proxpi", base, pid)
    with devpi(f"{OURS}/simple/") as (base, pid):
        found["devpi-server"] = peer("devpi-server", base, pid)
    return found


def main() -> None:
    result: dict[str, object] = {"against bare": against_bare()}
    masters = {
        name: int(Path(f"/run/{file}.pid").read_text())
        for name, file in (("ours", "nginx"), ("bare", "bare"))
    }
    result["memory"] = {name: megabytes(processes(pid)) for name, pid in masters.items()}
    said = subprocess.run(["/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True).stderr
    result["nginx"] = said.partition("/")[2].split()[0]
    result["peers"] = peers()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
