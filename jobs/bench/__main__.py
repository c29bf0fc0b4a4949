"""``python -m jobs.bench``: the bench where typer and rich are not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields

from jobs.advice import advise
from jobs.bench.generate import GenerateOptions, bench_generate
from jobs.bench.gpu.command import main as bench_gpu
from jobs.bench.options import numbers
from jobs.bench.run import bench
from jobs.bench.shapes import SHAPES
from jobs.bench.subject import BenchOptions
from steering_core.models import DEVICES, DTYPES
from steersweep.errors import UserError


def _say(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 measured, 1 a step of ``gpu`` failed, 2 something must be changed."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["gpu"]:
        return _measured(lambda: bench_gpu(arguments[1:]))
    parser = argparse.ArgumentParser(prog="python -m jobs.bench", description=__doc__)
    parser.add_argument(
        "kind",
        nargs="?",
        choices=("score", "generate", "gpu"),
        help="what to time; default: score; gpu has options of its own: gpu --help",
    )
    parser.add_argument(
        "--shape", choices=SHAPES, help="random weights of this shape; default: gemma2-mid"
    )
    parser.add_argument("--model", metavar="PATH", help="model: a local folder or a hub id")
    parser.add_argument(
        "--data", metavar="FILE", help="StereoSet's dev.json; default: the examples in the package"
    )
    parser.add_argument("--format", metavar="NAME", help="what the file is; default: stereoset")
    parser.add_argument("--rows", type=int, help="number of examples; default: what fits the time")
    parser.add_argument("--layers", metavar="1,3,5", help="layers; default: every second one")
    parser.add_argument(
        "--coeffs", metavar="20,400", help="coefficients; default: 20, of generate 0 to 2.5"
    )
    parser.add_argument("--device", choices=DEVICES, help="device; default: auto")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), help="number format; default: auto")
    parser.add_argument("--threads", type=int, help="number of CPU threads of PyTorch")
    parser.add_argument(
        "--tokens-per-batch", type=int, help="of the engine; default: the best of a few"
    )
    parser.add_argument("--seconds", type=float, help="total time to aim at; default: 60")
    parser.add_argument(
        "--repeats", type=int, help="time everything this often, take the median; default: 3"
    )
    parser.add_argument(
        "--scaling",
        action="store_true",
        dest="with_scaling",
        default=None,
        help="also time how the cost grows",
    )
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)  # as earlier
    parser.add_argument("--prompts", type=int, help="of generate: number of prompts; default: 64")
    parser.add_argument(
        "--new-tokens", type=int, help="of generate: longest answer in tokens; default: 64"
    )
    parser.add_argument(
        "--rows-at-once",
        type=int,
        help="of generate: answers written at a time; default: 64",
    )
    parser.add_argument(
        "--json-file", "--json", dest="json", metavar="FILE", help="also write the results as JSON"
    )
    given = vars(parser.parse_args(arguments))
    generates = given["generate"] or given["kind"] == "generate"
    kind = GenerateOptions if generates else BenchOptions
    options = {f.name: given[f.name] for f in fields(kind) if given.get(f.name) is not None}

    def measure() -> int:
        if "layers" in options:
            options["layers"] = numbers(options["layers"], int, "--layers")
        if "coeffs" in options:
            options["coeffs"] = numbers(options["coeffs"], float, "--coeffs")
        if generates:
            bench_generate(GenerateOptions(**options), _say)
        else:
            bench(BenchOptions(**options), _say)
        return 0

    return _measured(measure)


def _measured(measure: Callable[[], int]) -> int:
    """The exit code of what measures; 2 and one line for what the user must change."""
    try:
        return measure()
    except UserError as error:
        advise(error)
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
