"""``python -m jobs.bench gpu``: the command where typer and rich are not installed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from jobs.bench.gpu.driver import bench_gpu
from jobs.bench.gpu.options import DEVICES, SECTIONS, SHAPES, GpuOptions

_DESCRIPTION = """\
Check and measure steersweep on a GPU, in one unattended run of at most nine
minutes. Each measurement is tried alone, so a failure costs that measurement
only, and results are on disk after every step:

  gpu.json  everything that was found
  gpu.md    the same as tables, for docs/performance.md
  gpu.log   what the libraries printed

Sections, most valuable first:

  environment  versions, settings, matrix rates and copy rates
  right        the engine against one-by-one references
  fast         rows per second over batch sizes, next to plain loops
  profile      where the time of one cell goes
  text         tokens per second of steered generation
"""
_EXAMPLES = """\
examples:
  python -m jobs.bench gpu --data dev.json
  python -m jobs.bench gpu --sections right,fast --seconds 300
  python -m jobs.bench gpu --shape tiny --device cpu    # to try the command

exit code: 0 every step succeeded, 1 a step failed, 2 bad input
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code.

    Raises:
        UserError: something the user must change.
    """
    default = GpuOptions()
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench gpu",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--shape",
        default=default.shape,
        metavar="NAME",
        help=f"{' or '.join(SHAPES)}: the models of a real sweep, or tiny ones that a CPU can run "
        f"(default: {default.shape})",
    )
    parser.add_argument(
        "--data", metavar="FILE", help="StereoSet's dev.json (default: the examples in the package)"
    )
    parser.add_argument(
        "--output", default=default.output, metavar="DIR",
        help=f"folder for the three files; those there are replaced (default: {default.output})",
    )  # fmt: skip
    parser.add_argument(
        "--sections", metavar="NAMES", help=f"some of {','.join(SECTIONS)} (default: all)"
    )
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, metavar="N",
        help=f"limit of the whole run (default: {default.seconds:g})",
    )  # fmt: skip
    parser.add_argument(
        "--device", default=default.device, metavar="NAME",
        help=f"{', '.join(DEVICES)} (default: {default.device})",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", dest="prints_json",
        help="print gpu.json to stdout at the end, and messages to stderr",
    )  # fmt: skip
    given = vars(parser.parse_args(arguments))
    prints_json = given.pop("prints_json")
    given["sections"] = section_names(given["sections"])
    stream = sys.stderr if prints_json else sys.stdout

    def say(message: str) -> None:
        stream.write(f"{message}\n")
        stream.flush()

    result = bench_gpu(GpuOptions(**given), say)
    if prints_json:
        sys.stdout.write(json.dumps(result.as_json(), indent=2, allow_nan=False) + "\n")
    return result.exit_code


def section_names(text: str | None) -> tuple[str, ...]:
    """The names of ``right,fast``; none for None."""
    return () if text is None else tuple(part.strip() for part in text.split(","))
