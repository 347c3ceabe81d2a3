"""Helpers that run a sweep and take nodes or the head from it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from ray_machines import Cluster, Machine, wait_for

EPOCH = re.compile(r"trial (\S+) epoch (\d+),")
Say = Callable[[str], None]


class Driver:
    """The command of the sweep, with the lines that it prints.

    Args:
        file: The sweep file; the lines of all its commands are in a log beside it.
        runs: URL of run folders.
        cluster: The nodes.
    """

    def __init__(self, file: Path, runs: str, cluster: Cluster) -> None:
        self._log = file.with_suffix(".log")
        command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", runs, "--address", cluster.address]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=cluster.head.environment, stdout=log, stderr=subprocess.STDOUT, cwd=file.parent
            )

    def lines(self) -> list[str]:
        """Return what it has printed."""
        return self._log.read_text().splitlines()

    def finished(self) -> int:
        """Return the number of finished trials."""
        return sum(" finished (" in line for line in self.lines())

    def has_ended(self) -> bool:
        """Return whether the command has ended."""
        return self.process.poll() is not None

    def follow(self, trials: int, cluster: Cluster, say: Say) -> None:
        """Return when the command has ended; say what it has cost after each quarter of the trials.

        Args:
            trials: Number of trials.
            cluster: The nodes; say when each has had a trial.
            say: Prints a line.

        Raises:
            TimeoutError: If it does not end.
            SystemExit: If it has failed.
        """
        end, quarter = time.monotonic() + max(1800.0, 5.0 * trials), max(1, trials // 4)
        last, used = 0, 0.0
        idle = set(cluster.machines)
        while not self.has_ended():
            if idle and not (idle := {name for name in idle if not trials_of(cluster.machines[name])}):
                say(f"each node has had a trial; {self.finished()} have finished")
            with suppress(psutil.Error):
                if (now := self.finished()) >= last + quarter:
                    process = psutil.Process(self.process.pid)
                    seconds, memory = sum(process.cpu_times()[:2]), process.memory_info().rss / 2**20
                    cost = 1000.0 * (seconds - used) / (now - last)
                    say(f"{now} trials have finished; driver: {cost:.0f} ms of a core per trial, {memory:.0f} MiB")
                    last, used = now, seconds
            if time.monotonic() > end:
                raise TimeoutError("the sweep")
            time.sleep(0.2)
        say(f"the sweep has ended with exit code {self.process.returncode}, {self.finished()} trials finished")
        if self.process.returncode:
            raise SystemExit("\n".join(self.lines()[-40:]))

    def lose_training_worker(self, cluster: Cluster) -> Machine:
        """Kill a worker of a trial that has several, once it has reported an epoch, and return the worker's node."""
        wait_for(lambda: self.has_ended() or any(map(EPOCH.match, self.lines())), "an epoch", seconds=600.0)
        for node in cluster.machines.values():
            for process in node.processes():
                with suppress(psutil.NoSuchProcess):
                    if any("RayTrainWorker" in word for word in process.cmdline()):
                        process.kill()
                        return node
        raise AssertionError("no worker trains\n" + "\n".join(self.lines()[-40:]))

    def starts(self, trial: str) -> int:
        """Return how often a trial was started."""
        return sum(line.startswith(f"trial {trial} starts") for line in self.lines())

    def trains(self, trial: str) -> bool:
        """Return whether a trial has reported three epochs or more, and has not ended."""
        lines = [line for line in self.lines() if line.startswith(f"trial {trial} ")]
        return sum(" epoch " in line for line in lines) >= 3 and not any(" finished " in line for line in lines)

    def repeats(self) -> Counter[str]:
        """Return how many epochs each trial has reported more than once."""
        counts = Counter(match.groups() for line in self.lines() if (match := EPOCH.match(line)))
        found: Counter[str] = Counter()
        for (trial, _), count in counts.items():
            found[trial] += count - 1
        return +found


def running_trial(machine: Machine) -> str | None:
    """Return the trial that runs on a machine, by its heartbeat."""
    found = list(Path(machine.environment["WHALE_RAY_CACHE"]).glob("runs/*/*/trials/*/alive"))
    return found[0].parent.name if found else None


def trials_of(machine: Machine) -> int:
    """Return how many trials a machine has had."""
    return len(list(Path(machine.environment["WHALE_RAY_CACHE"]).glob("runs/*/*/trials/*")))


class Disturbance:
    """Takes nodes from a running sweep and gives it new ones.

    Args:
        cluster: The nodes.
        start: Starts the command of the sweep.
        say: Prints a line.

    Attributes:
        driver: The running command.
        losses: Trial → number of times that it has lost its node or the driver.
        warned: Trials whose node was warned by SIGTERM.
    """

    def __init__(self, cluster: Cluster, start: Callable[[], Driver], say: Say) -> None:
        self._cluster, self._start, self._say = cluster, start, say
        self.losses: Counter[str] = Counter()
        self.warned: set[str] = set()
        self._returned: list[str] = []
        self.driver = start()

    def lose(self, kinds: Sequence[str], *, after: int) -> None:
        """Lose nodes that train, or the head, when some trials have finished; one new node joins.

        Args:
            kinds: One for each lost node, without waiting for what becomes of its trial: kill (SIGKILL); terminate
                (SIGTERM, and SIGKILL at most 25 s later); freeze (SIGSTOP until its trial runs elsewhere); cut (cut off
                from the network until its trial runs elsewhere; see `rejoin`). Or head alone: head and driver are
                killed, another cluster is started, which nodes that were cut off join, and the same command typed.
            after: Number of finished trials.
        """
        if kinds == ["head"]:
            self._wait_for_victim("head", after)
            self._restart()
            return
        added, silent = None, list[tuple[str, Machine]]()
        for kind in kinds:
            victim = self._wait_for_victim(kind, after, but=added)
            del self._cluster.machines[victim.name]
            if kind == "kill":
                victim.kill()
            if kind in ("freeze", "cut"):
                self._silence(kind, victim)
                silent.append((kind, victim))
            if kind == "terminate":
                victim.terminate(seconds=25.0)
            added = added or self._cluster.add(f"new{len(self._cluster.started)}")
        assert added
        added.wait_until_started()
        self._say(f"node {added.name} has joined")
        for kind, victim in silent:
            self._bring_back(kind, victim, str(running_trial(victim)))
        driver = self.driver
        wait_for(lambda: driver.has_ended() or running_trial(added), "a trial on the new node", seconds=600.0)
        self._say(f"node {added.name} has trial {running_trial(added)}")

    def _wait_for_victim(self, kind: str, after: int, *, but: Machine | None = None) -> Machine:
        """Return a node that trains, and count the loss for the trials that it hits."""
        driver, busy = self.driver, list[Machine]()

        def is_there() -> bool:
            busy[:] = [one for one in self._busy() if one is not but] if driver.finished() >= after else []
            return bool(busy) or driver.has_ended()

        wait_for(is_there, "trials", seconds=600.0)
        assert busy, f"the sweep ended before {kind}: {driver.finished()} trials"
        hit = str(running_trial(busy[0]))
        self._say(f"{driver.finished()} trials have finished; {kind}: node {busy[0].name} with trial {hit}")
        self.warned |= {hit} if kind == "terminate" else set()
        lost = list(self._cluster.machines.values()) if kind == "head" else busy[:1]
        self.losses.update(trial for one in lost if (trial := running_trial(one)))
        return busy[0]

    def _silence(self, kind: str, victim: Machine) -> None:
        if kind == "freeze":
            victim.signal(signal.SIGSTOP)
        elif network := self._cluster.network:
            network.cut(victim.name)

    def _bring_back(self, kind: str, victim: Machine, trial: str) -> None:
        """Bring a silent node back, which went on with its trial if it was cut off, once that trial runs elsewhere."""
        wait_for(lambda: self.driver.has_ended() or self.driver.starts(trial) > 1, "the trial elsewhere", seconds=600.0)
        self._say(f"trial {trial} was started elsewhere; node {victim.name} comes back")
        if kind == "freeze":
            victim.signal(signal.SIGCONT)
        elif network := self._cluster.network:
            network.mend(victim.name)
            self._returned.append(victim.name)

    def rejoin(self) -> None:
        """Start Ray again on the nodes that were cut off; what ran there ends, for Ray has given it up."""
        while self._returned:
            node = self._cluster.add(self._returned.pop())
            node.wait_until_started()
            self._say(f"node {node.name} has joined again")

    def _restart(self) -> None:
        self.driver.process.kill()
        self._cluster.head.kill()
        self._cluster.start_head()
        self._cluster.add_all(
            [f"new{len(self._cluster.started) + number}" for number in range(2 - len(self._returned))]
        )
        self.rejoin()
        self._say("another cluster runs; the nodes of the old one still train")
        self.driver = self._start()

    def _busy(self) -> list[Machine]:
        machines = self._cluster.machines.values()
        return [one for one in machines if (trial := running_trial(one)) and self.driver.trains(trial)]
