"""A section's process: ``python -m jobs.bench.gpu.section ORDER PIPE``.

Started by ``driver``; what happens is written to a pipe, what libraries print goes to gpu.log.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jobs.bench.gpu.options import GpuOptions
from jobs.bench.gpu.steps import Setting, problem_of, run_steps


@dataclass(frozen=True)
class Order:
    """What a section's process is told.

    Attributes:
        module: has ``steps(setting)``, a list of steps.
        deadline: of ``time.monotonic``, which all processes of a machine share.
    """

    module: str
    options: GpuOptions
    deadline: float

    def as_text(self) -> str:
        """The order as JSON."""
        return json.dumps({**vars(self), "options": self.options.as_text()})

    @classmethod
    def parse(cls, text: str) -> Order:
        """The order that ``as_text`` wrote."""
        told = json.loads(text)
        return cls(**{**told, "options": GpuOptions.parse(told["options"])})


def main(arguments: Sequence[str]) -> int:
    """Run the section; exit code 1 if it could not begin.

    Args:
        arguments: the order, and the file descriptor that events are written to.
    """
    order = Order.parse(arguments[0])
    with os.fdopen(int(arguments[1]), "w", encoding="utf-8") as events:
        try:
            import transformers

            transformers.logging.disable_progress_bar()
            transformers.logging.set_verbosity_error()
            setting = Setting.of(order.options, order.deadline)
            steps = importlib.import_module(order.module).steps(setting)
        except Exception as error:  # the driver writes it down, and the next section begins
            events.write(json.dumps({"cannot_begin": asdict(problem_of(error))}) + "\n")
            return 1
        run_steps(steps, setting, events)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
