"""Runs the sections one after the other, each in a process with a limit, and keeps what they find.

Only this process writes gpu.json and gpu.md. A section tells what happens through a pipe, so what
it found stays when it hangs or dies.
"""

from __future__ import annotations

import datetime
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import cache_from_source
from json import loads
from pathlib import Path
from typing import IO, Any

import torch

from jobs.bench.gpu.options import SECTIONS, GpuOptions
from jobs.bench.gpu.page import page_of
from jobs.bench.gpu.record import (
    GpuRecord,
    Problem,
    SectionRecord,
    StepRecord,
    write_json,
    write_whole,
)
from jobs.bench.gpu.section import Order
from jobs.words import duration

Say = Callable[[str], None]

_WIDTH = 80
_LEAST_S = 10.0
"""With less time left no section is begun: Python needs seconds to import torch."""
_LEAST_LIMIT_S = 60.0
"""A section may take this long whatever its share, since libraries on a disk that nobody has read
yet can take half a minute. What it does not take is the next one's."""
_MARGIN_S = 2.0
"""A section is told to be done this long before its process is ended."""
_LINES_OF_LOG = 8
_COMMAND = (sys.executable, "-m", "jobs.bench.gpu.section")
_ROOT = Path(__file__).parents[3]

_ENVIRONMENT = {
    # Every batch has another shape; without this, freed memory falls to pieces that fit none.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # The size of cuBLAS's workspace decides last bits; read before a model pins it.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # Waiting OpenMP threads sleep, as in the steersweep command.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Of a section's process, unless the user's environment says otherwise."""


@dataclass(frozen=True)
class Plan:
    """A section: its module, and its share of the time relative to the others."""

    name: str
    module: str
    share: float


_SHARES = {"environment": 25, "right": 150, "fast": 210, "profile": 55, "text": 100}
PLANS = tuple(Plan(name, f"jobs.bench.gpu.{name}", _SHARES[name]) for name in SECTIONS)


@dataclass(frozen=True)
class GpuResult:
    """A finished run."""

    record: GpuRecord

    @property
    def exit_code(self) -> int:
        """0 if nothing failed, 1 otherwise."""
        return 1 if self.record.failed else 0

    def as_json(self) -> dict[str, Any]:
        """What gpu.json holds."""
        return self.record.as_json()


def bench_gpu(options: GpuOptions, say: Say, plans: Sequence[Plan] = PLANS) -> GpuResult:
    """Run the chosen sections; gpu.json is replaced after every step, gpu.md after every section.

    Raises:
        UserError: something the user must change; raised before anything is written.
    """
    options.check()
    return _Run(options, say, plans).whole()


class _Run:
    """One run: its record, and the files that it leaves."""

    def __init__(self, options: GpuOptions, say: Say, plans: Sequence[Plan]) -> None:
        self._options, self._say = options, say
        self._plans = [plan for plan in plans if plan.name in options.chosen]
        self._started = time.monotonic()
        self._environment: dict[str, str] = {}
        options.folder.mkdir(parents=True, exist_ok=True)
        self._log = options.folder / "gpu.log"
        self._log.write_bytes(b"")
        self.record = GpuRecord(
            command=command_of(options),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            device=options.device_type(),
            shape=options.shape,
            data="embedded examples" if options.data is None else Path(options.data).name,
            seconds=options.seconds,
            sections=[SectionRecord(plan.name) for plan in self._plans],
        )

    def whole(self) -> GpuResult:
        """Run everything, and say how it ended."""
        names = ", ".join(plan.name for plan in self._plans)
        self._say(f"bench gpu on {self.record.device}: {names}")
        self._say(f"at most {duration(self._options.seconds)}; results in {self._options.output}")
        with _bytecode() as environment:
            self._environment = environment
            self._run_all()
        self._say_end()
        return GpuResult(self.record)

    def _run_all(self) -> None:
        self._write_page()
        for index, plan in enumerate(self._plans):
            section = self.record.sections[index]
            left_s = self._options.seconds - (time.monotonic() - self._started)
            if left_s < _LEAST_S:
                section.status, section.reason = "left out", "no time left"
                self._say(f"{plan.name}: left out, no time left")
            else:
                shares = sum(later.share for later in self._plans[index:])
                section.limit_s = min(left_s, max(_LEAST_LIMIT_S, left_s * plan.share / shares))
                self._run(plan, section)
            self._write_page()

    def _run(self, plan: Plan, section: SectionRecord) -> None:
        """Run one section to its end or to its limit."""
        assert section.limit_s is not None
        started = time.monotonic()
        section.status = "running"
        self._say("")
        self._say(f"{section.name}: at most {duration(section.limit_s)}")
        order = Order(plan.module, self._options, started + section.limit_s - _MARGIN_S)
        with _Process(order, started + section.limit_s, self._log, self._environment) as process:
            for event in process.events():
                self._take(section, event)
                self._write()
            ended = process.ended()
        section.took_s = time.monotonic() - started
        section.status = "ended" if ended else "done"
        section.reason = section.reason or ended
        self._close(section)
        self._write()

    def _take(self, section: SectionRecord, event: Mapping[str, Any]) -> None:
        """Put an event of a section into the record."""
        if "steps" in event:
            # What the section will do is known before it does it, so that no step is lost unseen.
            section.steps = [StepRecord(name, "left out") for name in event["steps"]]
        elif "begin" in event:
            self._step(section, event["begin"]).status = "running"
        elif "cannot_begin" in event:
            problem = Problem(**event["cannot_begin"])
            section.steps = [StepRecord("start", "failed", line=problem.line, problem=problem)]
            self._say_step(section, section.steps[0])
        elif "lost" in event:
            section.reason = event["lost"]
        else:
            step = self._step(section, event["end"])
            step.status, step.line = event["status"], event["line"]
            step.took_s, step.found = event.get("took_s"), event.get("found") or {}
            step.problem = Problem(**event["problem"]) if event.get("problem") else None
            self._say_step(section, step)

    def _close(self, section: SectionRecord) -> None:
        """Say of the steps that did not come to their end why."""
        if not section.steps:
            problem = Problem("ended", section.reason or "it said nothing")
            section.steps = [StepRecord("start", "failed", line=problem.message, problem=problem)]
            self._say_step(section, section.steps[0])
        for step in section.steps:
            if step.status == "running":
                step.status, step.line = "failed", section.reason
                step.problem = Problem("ended", section.reason)
                self._say_step(section, step)
            elif step.status == "left out" and not step.line:
                step.line = section.reason or "no time left"

    @staticmethod
    def _step(section: SectionRecord, name: str) -> StepRecord:
        step = section.step(name)
        if step is None:
            step = StepRecord(name)
            section.steps.append(step)
        return step

    def _write(self) -> None:
        self.record.took_s = time.monotonic() - self._started
        write_json(self._options.folder / "gpu.json", self.record.as_json())

    def _write_page(self) -> None:
        self._write()
        write_whole(self._options.folder / "gpu.md", page_of(self.record))

    def _say_step(self, section: SectionRecord, step: StepRecord) -> None:
        names = [other.name for other in section.steps]
        place = f"{names.index(step.name) + 1}/{len(names)}"
        was_tried = step.took_s is not None and step.status != "left out"
        took = f" ({duration(step.took_s or 0.0)})" if was_tried else ""
        failed = {"failed": "FAILED: ", "left out": "left out: "}.get(step.status, "")
        text = f"{place:>6} {step.name}: {failed}{step.line}"
        # A failure is told in full, and everything else in one line of a terminal.
        if step.status == "failed":
            lines = textwrap.wrap(text + took, _WIDTH, subsequent_indent=" " * 9) or [text]
            self._say("\n".join(lines[:4]))
            return
        room = _WIDTH - len(took)
        self._say((text if len(text) <= room else f"{text[: room - 3].rstrip()}...") + took)

    def _say_end(self) -> None:
        record, num = self.record, len(self.record.steps)
        self._say("")
        num_ok = sum(step.status == "ok" for _, step in record.steps)
        self._say(f"{num_ok} of {num} steps succeeded in {duration(record.took_s)}")
        for word, names in (("failed", record.failed), ("left out", record.left_out)):
            for name in names:
                lines = textwrap.wrap(f"{word}: {name}", _WIDTH, subsequent_indent="  ")
                self._say("\n".join(lines))
        folder = self._options.output.rstrip("/")
        self._say(f"read {folder}/gpu.md; all numbers are in {folder}/gpu.json")


class _Process:
    """A section's process, in a process group that is ended with it.

    Args:
        deadline: of ``time.monotonic``; it is killed then.
    """

    def __init__(
        self, order: Order, deadline: float, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._deadline, self._log_file = deadline, log
        self._begun = time.monotonic()
        self._is_killed = False
        reading, writing = os.pipe()
        self._log = log.open("ab")
        self._log.write(f"== {order.module}\n".encode())
        self._log.flush()
        self._log_start = self._log.tell()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            [*_COMMAND, order.as_text(), str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            env=environment,
            start_new_session=True,
        )
        os.close(writing)
        self._pipe: IO[bytes] = os.fdopen(reading, "rb", buffering=0)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_raised: object) -> None:
        # Also after Ctrl-C: nothing of a section is left running.
        self._kill()
        self._pipe.close()
        self._log.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """What the section tells, until it ends; it is killed at its limit."""
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, self._deadline - time.monotonic())):
                    self._is_killed = True
                    self._kill()
                    return
                read = self._pipe.read(2**16)
                if not read:
                    return
                *lines, rest = (rest + read).split(b"\n")
                for line in lines:
                    yield loads(line)

    def ended(self) -> str:
        """Why the process ended before its work was done; empty if it did not."""
        if self._is_killed:
            return f"ended at its limit of {duration(self._deadline - self._begun)}"
        try:
            code = self._process.wait(timeout=max(1.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._kill()
            return ""  # all was told, and only the interpreter did not end
        if code in (0, 1):
            return ""
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the process ended with {name}: {self._last_words()}"

    def _last_words(self) -> str:
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return " / ".join(lines[-_LINES_OF_LOG:]) or "it printed nothing"

    def _kill(self) -> None:
        """End the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def _bytecode() -> Iterator[dict[str, str]]:
    """The environment of the sections' processes.

    Where Python may not keep compiled modules, each process would compile torch and transformers
    anew, ten seconds of a processor. They then share a folder that is removed at the end.
    """
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**_ENVIRONMENT, **os.environ, "PYTHONPATH": path}
    if Path(cache_from_source(torch.__file__)).exists():
        yield environment
        return
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="steersweep-bytecode-") as folder:
        yield {**environment, "PYTHONPYCACHEPREFIX": folder}


def command_of(options: GpuOptions) -> str:
    """The command that repeats a run, with the name of the data file and not its path."""
    default = GpuOptions()
    given = {
        "--shape": None if options.shape == default.shape else options.shape,
        "--data": None if options.data is None else Path(options.data).name,
        "--device": None if options.device == default.device else options.device,
        "--sections": ",".join(options.sections) or None,
        "--seconds": None if options.seconds == default.seconds else f"{options.seconds:g}",
    }
    words = [word for option, value in given.items() if value for word in (option, value)]
    return shlex.join(["python", "-m", "jobs.bench", "gpu", *words])
