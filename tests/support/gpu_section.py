"""A stand-in for the process of a section of ``bench gpu``, without torch.

``python gpu_section.py ORDER PIPE``; the order's module says what it does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def main(order: dict[str, Any], pipe: int) -> int:
    folder = Path(json.loads(order["options"])["output"])
    events = os.fdopen(pipe, "w")

    def tell(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    kind = order["module"]
    if kind == "cannot begin":
        tell(cannot_begin={"type": "ImportError", "message": "no such thing", "traceback": "..."})
        return 1
    tell(steps=["first", "second", "third"])
    tell(begin="first")
    tell(end="first", status="ok", took_s=0.1, line="found it", found={"number": 1})
    if kind == "looks":
        tell(begin="second")
        tell(end="second", status="ok", took_s=0.1, line="looked", found=seen_on_disk(folder))
        tell(end="third", status="left out", line="no need")
    elif kind == "hangs":
        tell(begin="second")
        child = os.fork()  # what a section starts must end with it
        (folder / "pids").write_text(f"{os.getpid()} {child or os.getpid()}") if child else None
        time.sleep(600)
    elif kind == "dies":
        tell(begin="second")
        print("the last words")  # noqa: T201
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "loses":
        tell(begin="second")
        tell(end="second", status="failed", took_s=0.1, line="no", problem=PROBLEM)
        tell(lost="the device does not work after that error")
    return 0


PROBLEM = {"type": "AcceleratorError", "message": "illegal address", "traceback": "at line 1"}


def seen_on_disk(folder: Path) -> dict[str, Any]:
    """The status of this section's first step in gpu.json, as soon as it is there."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        sections = json.loads((folder / "gpu.json").read_text())["sections"]
        steps = sections[0]["steps"]
        if steps and steps[0]["status"] == "ok":
            return {"status": steps[0]["status"], "found": steps[0]["found"]}
        time.sleep(0.02)
    return {"status": "never seen"}


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), int(sys.argv[2])))
