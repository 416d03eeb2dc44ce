"""Fetch, publish and pull die, some hundred times, while a client reads through nginx: no page is ever broken.

Half of the kills are at random moments, half before a step in a phase of the run: in each phase some land.
The seed is printed with a failure; set KILL_SEED to run the same sequence of changes and moments again.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.fleet import DEADLINE, HERE, Host, Mirror, Origin, Site, Tier2
from faults.nginx import Nginx
from faults.phases import PHASES, Run, by

from mirrorfleet.cli import main

# Of an origin and of a tier-2; a fourth of that with bandersnatch.
KILLS = int(os.environ.get("KILLS", 100 * int(os.environ.get("TIMES", "1"))))
pytestmark = pytest.mark.chance
NAMES = [f"project-{number}" for number in range(8)]


@pytest.fixture
def seed() -> int:
    """What is printed here is a part of a failure's report, in whichever process the test ran."""
    seed = int(os.environ.get("KILL_SEED", random.randrange(2**32)))
    print(f"KILL_SEED={seed}")
    return seed


@pytest.fixture
def read(web: Callable[[Path], Nginx], tmp_path: Path) -> Iterator[Callable[[Host], subprocess.Popen[bytes]]]:
    """Start a client that reads a host's pages all the while."""
    started: list[subprocess.Popen[bytes]] = []

    def start(host: Host) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "reader.py"), web(host.served).url, str(tmp_path / "report")]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def change(origin: Origin, chance: random.Random, version: int) -> None:
    """A few changes of every kind; files of some size, so that copying takes a while."""
    for name in chance.sample(NAMES, 3):
        match chance.randrange(6):
            case 0 if (origin.local / name).exists() and len(list(origin.local.iterdir())) > 5:
                origin.delete(name)
            case 1 if (origin.local / name).exists():
                origin.facts(name, status="quarantined", reason="malware")
            case 2 if (origin.local / name).exists():
                for path in sorted((origin.local / name).glob("*-[0-9]*"))[:1]:
                    origin.facts(name, yanked={path.name: "because"})
            case 3 if (origin.local / name).exists():
                (origin.local / name / "project.json").unlink(missing_ok=True)
                for path in sorted((origin.local / name).glob("*-[0-9]*"))[:2]:
                    path.unlink()
            case _:
                origin.release(name, f"{version}.0", size=chance.choice([100, 200_000]))


def start(host: Host, verb: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Run a verb in a fork of this process: it starts at once, so that the kill hits its work."""
    child = os.fork()
    if child:
        return child
    code: Any = 70
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        prepare()
        code = main(host.command(verb)[3:])
    except SystemExit as left:
        code = left.code
    finally:
        os._exit(code)  # never back into pytest


def end(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def run_free(host: Host, verb: str) -> float:
    """Run a verb to its end, after what a kill left behind has let go of the lock; returns how long it took."""
    until = time.monotonic() + DEADLINE
    while True:
        started = time.monotonic()
        code = end(start(host, verb))
        if code == 0:
            return time.monotonic() - started
        assert code == 3, f"{verb}: exit {code}"
        assert time.monotonic() < until
        time.sleep(0.02)


class Killer:
    """Ends runs of a host, and knows in which phase each was: KILLS is of those that were at work."""

    def __init__(self, host: Host, chance: random.Random, usual: float) -> None:
        self._host, self._chance, self._usual = host, chance, usual
        self.landed: Counter[str] = Counter()

    def kill(self, verb: str) -> None:
        chance, run, phase = self._chance, Run(self._host.root), None
        number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        all_of_it = chance.random() < 0.5
        # Every other one that lands does so where the fewest did, so that chance leaves no phase out.
        if self.landed.total() % 2:
            phase = min(PHASES, key=self.landed.__getitem__)
            step = 1 + min(chance.randrange(40), chance.randrange(40))
            child = start(self._host, verb, lambda: run.watch(phase, step, by(number, all_of_it=all_of_it)))
        else:
            child = start(self._host, verb, run.watch)
            time.sleep(chance.uniform(0, self._usual))
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if all_of_it else os.kill)(child, number)
        # One that failed by itself before it was where it was to be killed is none that landed.
        if end(child) != 0 and (reached := run.phase()) and phase in (None, reached):
            self.landed[reached] += 1

    def check(self, times: int) -> None:
        print(f"killed: {dict(self.landed)}")
        assert self.landed.total() == times
        assert min(self.landed[phase] for phase in PHASES) >= times / 10


def report(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    process.terminate()
    process.wait(DEADLINE)
    found = json.loads((tmp_path / "report").read_text())
    assert found["broken"] == []
    assert found["pages"] > 100
    assert found["files"] > 100


@pytest.fixture
def stocked(tmp_path: Path) -> Origin:
    origin = Origin(tmp_path / "origin")
    origin.configure(maximum_shrink_share=1.0)
    for name in NAMES:
        origin.release(name, "0.0", size=200_000)
    return origin


def test_an_origin_that_is_killed_never_serves_a_broken_page(
    tmp_path: Path, stocked: Origin, seed: int, read: Callable[[Host], subprocess.Popen[bytes]]
) -> None:
    chance = random.Random(seed)
    usual = {verb: run_free(stocked, verb) for verb in ("dump", "publish", "sync")}
    reader = read(stocked)
    killer = Killer(stocked, chance, usual["sync"] + 0.05)
    for version in range(1, 10 * KILLS):
        change(stocked, chance, version)
        killer.kill(chance.choice(["dump", "publish", "publish", "sync"]))
        assert stocked.broken() == []
        if chance.random() < 0.3:
            run_free(stocked, "sync")
        if killer.landed.total() == KILLS:
            break
    killer.check(KILLS)
    for _ in range(2):
        run_free(stocked, "sync")
    report(reader, tmp_path)
    assert stocked.broken() == stocked.leftovers() == []
    assert stocked.names() == sorted(path.name for path in stocked.local.iterdir())


def test_a_tier2_that_is_killed_while_its_tier1_changes_never_serves_a_broken_page(
    tmp_path: Path, stocked: Origin, seed: int, read: Callable[[Host], subprocess.Popen[bytes]]
) -> None:
    run_free(stocked, "sync")
    tier2 = Tier2(tmp_path / "tier2", str(stocked.served), maximum_shrink_share=1.0)
    suffer(tier2, stocked, random.Random(seed), read(tier2), tmp_path, KILLS)


def test_a_mirror_that_is_killed_while_upstream_changes_never_serves_a_broken_page(
    tmp_path: Path,
    stocked: Origin,
    seed: int,
    serve: Callable[[Path], Site],
    read: Callable[[Host], subprocess.Popen[bytes]],
) -> None:
    run_free(stocked, "sync")
    mirror = Mirror(tmp_path / "mirror", serve(stocked.served).url, NAMES, maximum_shrink_share=1.0)
    suffer(mirror, stocked, random.Random(seed), read(mirror), tmp_path, KILLS // 4)


def suffer(
    mirror: Host,
    origin: Origin,
    chance: random.Random,
    reader: subprocess.Popen[bytes],
    tmp_path: Path,
    times: int,
) -> None:
    """The mirror is killed that many times, each while its upstream is publishing."""
    run_free(mirror, "sync")
    change(origin, chance, 1)
    run_free(origin, "sync")
    # Of a few changes, as below: the first one takes much longer.
    killer = Killer(mirror, chance, run_free(mirror, "sync"))
    for version in range(2, 10 * times):
        change(origin, chance, version)
        publishing = start(origin, "sync")
        time.sleep(chance.uniform(0, 0.05))
        killer.kill("sync")
        end(publishing)
        assert mirror.broken() == []
        if killer.landed.total() == times:
            break
    killer.check(times)
    for _ in range(2):
        run_free(origin, "sync")
        run_free(mirror, "sync")
    report(reader, tmp_path)
    assert mirror.broken() == mirror.leftovers() == []
    assert mirror.names() == origin.names()
