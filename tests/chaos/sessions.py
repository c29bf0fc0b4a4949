"""One trial's drivers, from the first to the one that is done, and the faults in between."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from cluster.storage import StorageSpec
from tests.chaos import stopwatch
from tests.chaos.drivers import LEASE_TTL_S, Settings, drive
from tests.chaos.machines import RayMachines, World, is_running, wait_for_end
from tests.chaos.payments import Payments
from tests.chaos.plan import Fault, Trial
from tests.chaos.result import Result, read_rows
from tests.chaos.sweeps import write_sweep

HANG_S = 300.0
"""Longer than a driver waits for room on a cluster without nodes (`no_progress_s`), and than a slow
machine takes for a whole sweep."""
INTERRUPTED_S = 60.0
MOST_SESSIONS = 12
WRONG_CLOCK = "wrong clock"
DRAIN_S = 2.0  # within which a driver sees that a node is being taken away
# Drivers start in a moment, from a process that has imported everything and started nothing.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "tests.chaos.drivers",
        "jobs.stereoset.job",
        "jobs.persona.job",
        "jobs.persona.judges.openai_judge",
        "jobs.cli",
    ]
)


def start_driver(settings: Settings) -> BaseProcess:
    """A driver in a process of its own."""
    Path(settings.output).unlink(missing_ok=True)
    process = _FORKS.Process(target=drive, args=(settings,))
    process.start()
    return process


class Sessions:
    """The sessions of one trial."""

    def __init__(self, world: World, machines: RayMachines, trial: Trial, uri: str) -> None:
        self._world, self._machines, self._trial, self._uri = world, machines, trial, uri
        self._folder = world.folder / f"trial-{trial.number}"
        self._folder.mkdir(exist_ok=True)
        self._log = self._folder / "stopwatch"
        self._log.unlink(missing_ok=True)
        self._left = [fault for fault in trial.faults if fault.kind != WRONG_CLOCK]
        self._has_wrong_clocks = len(self._left) < len(trial.faults)
        self._marks: list[tuple[str, float]] = []
        self._payments = Payments(world.judge, StorageSpec(uri, world.s3_endpoint))
        self._rng = random.Random(f"{trial.seed}/{trial.number}/clocks")
        self._spec = write_sweep(trial.worker, world, self._folder, uri)
        self.result = Result(trial)
        if self._has_wrong_clocks:
            self.result.faults_done[WRONG_CLOCK] += 1

    def until_done(self) -> Result:
        """Start drivers until one says that everything is done."""
        mix = self._world.proxy.mix
        mix.done.clear()
        mix.rng.seed(f"{self._trial.seed}/{self._trial.number}/s3")
        mix.share = self._trial.s3_share
        begun = time.monotonic()
        try:
            while not self._session():
                if self.result.num_sessions >= MOST_SESSIONS or self.result.num_hangs:
                    self.result.problems.append(f"not done after {self.result.num_sessions} runs")
                    break
        finally:
            mix.share, mix.down_until = 0.0, 0.0
        result = self.result
        result.seconds = time.monotonic() - begun
        result.s3_faults = Counter(mix.done)
        entries = stopwatch.read(self._log)
        result.num_done_again = stopwatch.num_done_again(entries)
        result.num_second_attempts = stopwatch.num_second_attempts(entries)
        result.most_done_again += result.num_second_attempts
        self._payments.add_to(result)
        for kind, when in self._marks:
            # The other replicas go on: what a lost one costs is the time to the next.
            is_replica = kind == "kill replica"
            after = stopwatch.replaced_after if is_replica else stopwatch.recovered_after
            took = after(entries, when)
            if took is not None:
                result.recovery_s.setdefault(kind, []).append(took)
        return result

    def _session(self) -> bool:
        """One driver from start to end, with the faults that fall into its time."""
        self._machines.heal()
        self._world.disk.empty()
        self.result.num_sessions += 1
        self._payments.begin_session()
        driver = self._start()
        begun = time.monotonic()
        while driver.is_alive():
            if (
                self._left
                and self._is_due(self._left[0], begun)
                and self._can(self._left[0], driver)
            ):
                self._do(self._left.pop(0), driver)
                begun = time.monotonic()
            if time.monotonic() - begun > HANG_S:
                self._hung(driver, "a driver")
            driver.join(0.02)
        if (num_again := self._payments.num_settled_again()) > 0:
            self.result.problems.append(f"{num_again} queries were asked again after their scores")
        if driver.exitcode == 0:
            return True
        self._check_exit(driver)
        read_rows(self._world, self._uri, self.result)  # whole at this moment, too
        return False

    def replicas(self) -> list[int]:
        """Process ids of the trial's replicas, latest first."""
        return stopwatch.pids(stopwatch.read(self._log))

    def _start(self, kind: str = "driver") -> BaseProcess:
        offset_s = 0.0
        if self._has_wrong_clocks:
            offset_s = self._rng.choice([-600.0, 600.0, 3.0])
        settings = Settings(
            address=self._machines.address,
            uri=self._uri,
            endpoint_url=None,
            log=str(self._log),
            output=str(self._folder / f"{kind}-{self.result.num_sessions}.out"),
            full_flag=str(self._world.disk.flag),
            num_slots=self._machines.num_slots,
            spec=self._spec,
            judge_key=self._payments.key(kind),
            clock_offset_s=offset_s,
        )
        return start_driver(settings)

    # -- faults ---------------------------------------------------------------------------------

    def _do(self, fault: Fault, driver: BaseProcess) -> None:
        num_places = allowed = self._machines.num_places
        num_up = sum(is_running(pid) for pid in self.replicas())
        now = time.monotonic()
        match fault.kind:
            case "kill driver":
                done = self._kill(driver.pid)
            case "interrupt driver":
                done = self._interrupt(driver, fault)
            case "kill replica":
                done = self._kill_replica(fault.number)
            case "kill raylet":
                done = self._machines.kill_raylet(fault.number)
            case "remove node":
                done = self._machines.remove_node(fault.number)
            case "drain node":
                done = self._machines.drain_node(fault.number, DRAIN_S + fault.amount)
            case "add node":
                self._machines.add_node()
                done, allowed = True, 0
            case "stop driver":
                done, allowed = self._stop_driver(driver, fault.amount), 2 * num_places
            case "stop replica":
                done, allowed = self._stop_replica(fault.number, fault.amount), 0
            case "second driver":
                done, allowed = self._second_driver(driver), 0
            case "s3 down":
                self._world.proxy.mix.down_until = time.monotonic() + fault.amount
                done = True
            case "disk full":
                self._world.disk.fill()
                done = True
            case other:
                raise AssertionError(f"unknown fault {other}")
        if done:
            self.result.faults_done[fault.kind] += 1
            self.result.most_done_again += allowed
            if self._may_lose_replies(fault):
                self._payments.allow_lost()
            # While replicas are being started anyway, the next one is not this one's successor.
            if allowed and (fault.kind != "kill replica" or num_up == num_places):
                self._marks.append((fault.kind, now))

    def _may_lose_replies(self, fault: Fault) -> bool:
        """Whether what a judge is being asked may be lost with the driver, or with the store."""
        match fault.kind:
            case "kill driver" | "disk full":
                return True
            case "interrupt driver":
                return _is_told_twice(fault)  # told once, it waits for what it has asked
            case "kill raylet":
                return self._machines.shape == "one node"  # which is the driver's own
        return False

    def _is_due(self, fault: Fault, begun: float) -> bool:
        if fault.while_judging:
            since = self._payments.judged_since()
            if since is None:
                return False
            begun = max(since, begun)
        return time.monotonic() - begun >= fault.after_s

    def _can(self, fault: Fault, driver: BaseProcess) -> bool:
        """A replica can be killed or stopped once there is one, a driver told once it listens."""
        if fault.kind == "interrupt driver":
            return _handles_sigterm(driver.pid)
        return not fault.kind.endswith("replica") or any(is_running(pid) for pid in self.replicas())

    def _kill(self, pid: int | None) -> bool:
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    def _interrupt(self, driver: BaseProcess, fault: Fault) -> bool:
        """Ctrl-C or SIGTERM, once or twice: it ends within seconds, and by its own exit code."""
        assert driver.pid is not None
        number = (signal.SIGINT, signal.SIGTERM)[fault.number % 2]
        begun = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver.pid, number)
            if _is_told_twice(fault):
                driver.join(fault.amount)
                os.kill(driver.pid, number)
        driver.join(INTERRUPTED_S)
        took = time.monotonic() - begun
        if driver.is_alive():
            self.result.problems.append(f"still there {took:.0f} s after {number.name}")
        elif driver.exitcode not in (0, 1, 2, 128 + number):
            self.result.problems.append(f"exit {driver.exitcode} after {number.name}")
        return True

    def _kill_replica(self, number: int) -> bool:
        pid = self._one_replica(number)
        return pid is not None and self._kill(pid)

    def _stop_replica(self, number: int, seconds: float) -> bool:
        """SIGSTOP for a while. Others may run its task meanwhile; then its own attempt is late."""
        pid = self._one_replica(number)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return False
        return True

    def _one_replica(self, number: int) -> int | None:
        """One of this trial's own that lives, by the ids that they noted down."""
        alive = [pid for pid in self.replicas() if is_running(pid)]
        return alive[number % len(alive)] if alive else None

    def _stop_driver(self, driver: BaseProcess, seconds: float) -> bool:
        """SIGSTOP for longer than its lease; another driver takes over, and then it wakes.

        Until it does, its replicas hold their share of the cluster, and the other's wait for it.
        """
        assert driver.pid is not None
        try:
            os.kill(driver.pid, signal.SIGSTOP)
        except ProcessLookupError:
            return False
        time.sleep(LEASE_TTL_S + 1.5)  # S3 stamps whole seconds
        asked_before = self._payments.num_asked("other")
        other = self._start("other")
        other.join(seconds)
        asked_asleep = self._payments.num_asked("driver")
        with contextlib.suppress(ProcessLookupError):  # it had just ended when it was stopped
            os.kill(driver.pid, signal.SIGCONT)
        other.join(HANG_S)
        if other.is_alive():
            self._hung(other, "the driver that takes over")
        elif other.exitcode != 0:
            self._check_exit(other, "other")
        if not wait_for_end(driver.pid, HANG_S):
            self._hung(driver, "the driver that was stopped")
        self._payments.allow_both(asked_before, asked_asleep)
        return True

    def _second_driver(self, driver: BaseProcess) -> bool:
        """It is refused, or wins where the first has not begun; then that one is refused."""
        asked_before, asked_alone = (
            self._payments.num_asked("other"),
            self._payments.num_asked("driver"),
        )
        other = self._start("other")
        other.join(HANG_S)
        if other.is_alive():
            self._hung(other, "the second driver")
        elif other.exitcode != 0:
            self._check_exit(other, "other")
        self._payments.allow_both(asked_before, asked_alone)
        return True

    def _hung(self, driver: BaseProcess, who: str) -> None:
        self.result.num_hangs += 1
        assert driver.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver.pid, signal.SIGUSR1)
            time.sleep(0.5)
        self.result.problems.append(f"{who} did not end within {HANG_S:.0f} s")
        driver.kill()
        driver.join(10)

    def _check_exit(self, driver: BaseProcess, kind: str = "driver") -> None:
        """A run that does not finish says in one line why, unless it was killed."""
        if driver.exitcode == -signal.SIGKILL:
            return
        text = (self._folder / f"{kind}-{self.result.num_sessions}.out").read_text()
        if "Traceback" in text:
            last = text.strip().rpartition("\n")[2]
            self.result.problems.append(f"exit {driver.exitcode} with a traceback: {last}")
        elif driver.exitcode in (130, 143):
            return
        elif driver.exitcode not in (1, 2) or ("error: " not in text and "warning: " not in text):
            self.result.problems.append(f"exit {driver.exitcode} without a word: {text[-200:]!r}")


def _is_told_twice(fault: Fault) -> bool:
    return fault.number % 4 > 1


def _handles_sigterm(pid: int | None) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
