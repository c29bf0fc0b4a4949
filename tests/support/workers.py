"""Workers for tests of `cluster`: what they do is written in the payload."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.errors import StorageUnavailableError
from steersweep.errors import UserError


class UnpicklableError(Exception):
    """Cannot be rebuilt from its pickle, as `__init__` wants what `args` does not hold."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{reason} {number}")


class ArrivesBroken:
    """A payload that pickles, but cannot be rebuilt where it arrives."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[[Exception], None], tuple[Exception]]:
        return raise_it, (self.error,)


def raise_it(error: Exception) -> None:
    raise error


@dataclass(frozen=True)
class Script:
    """One task's behaviour. With `marker`, what goes wrong does so once: while it is absent."""

    value: int = 0
    do: str = "return"
    marker: str = ""
    seconds: float = 0.0
    tables: tuple[str, ...] = ("rows",)


class ScriptedWorker:
    """Returns the script's value and its square, unless the script says otherwise."""

    def __init__(self, name: str = "worker", load: str = "fine", log: str = "") -> None:
        self.name = name
        self.num_loads = 0
        self._load = load
        self._device_is_broken = False
        self._log = log

    def load(self) -> Mapping[str, str]:
        if self.num_loads == 0:
            self.num_loads += 1
            self._note(f"load {self.name} {os.getpid()}")
            if self._load == "raise":
                raise RuntimeError("no such\nmodel")
            if self._load == "user":
                raise UserError("revision 'x' does not exist; choose another")
            if self._load == "exit":
                os._exit(3)
        return {"name": self.name, "pid": str(os.getpid()), "parent": str(os.getppid())}

    def check_device(self) -> None:
        if self._device_is_broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def run(self, payload: Script) -> Mapping[str, pa.Table]:
        self._note(f"run {self.name} {payload.value}")
        self.check_device()  # as any later call on the device fails
        if not (payload.marker and Path(payload.marker).exists()):
            if payload.marker:
                Path(payload.marker).write_text(str(os.getpid()))
            self._misbehave(payload)
        table = pa.table({"value": [payload.value], "square": [payload.value**2]})
        return dict.fromkeys(payload.tables, table)

    def _misbehave(self, payload: Script) -> None:
        match payload.do:
            case "return":
                pass
            case "raise":
                raise ValueError(f"bad value\n{payload.value}")
            case "raise_unpicklable":
                raise UnpicklableError(payload.value, "odd")
            case "missing_module":
                raise ModuleNotFoundError("No module named 'nowhere'")
            case "storage_unavailable":
                raise StorageUnavailableError("bucket b does not exist")
            case "break_device":
                self._device_is_broken = True
                raise RuntimeError("CUDA error: an illegal memory access\nAdvice for developers")
            case "system_exit":
                raise SystemExit(4)
            case "exit":
                os._exit(4)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "eat":  # memory, until somebody ends this process
                eaten = [bytearray(b"x") * 2**26 for _ in range(int(payload.seconds * 16))]
                raise AssertionError(f"{len(eaten)} blocks of 64 MiB were not enough")
            case "sleep":
                time.sleep(payload.seconds)
            case other:
                raise AssertionError(f"unknown script {other}")

    def _note(self, line: str) -> None:
        if self._log:
            with Path(self._log).open("a") as log:
                log.write(line + "\n")
