"""``steersweep bench``: throughput of this machine, next to plain PyTorch hooks.

Each benchmark is a command of its own. The form of earlier versions, in which ``--generate`` and
``--cluster`` chose the benchmark, still works and is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from jobs.bench.options import Options

_EARLIER_KINDS = {"--cluster": "cluster", "--generate": "generate"}


class _BenchGroup(TyperGroup):
    """Commands ``score``, ``generate``, ...; options without a command are the old form."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command before the options if there is none."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            kinds = [kind for option, kind in _EARLIER_KINDS.items() if option in args]
            renamed = [re.sub("^--json(=|$)", r"--json-file\1", arg) for arg in args]
            args = [kinds[0] if kinds else "score", *renamed]
            args = [arg for arg in args if arg not in _EARLIER_KINDS]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    cls=_BenchGroup,
    rich_markup_mode="markdown",
    help="Benchmark steersweep against plain PyTorch hooks on this machine.\n\nExamples:\n\n"
    "    steersweep bench score --shape gemma2-mid --data dev.json\n\n"
    "    steersweep bench generate --shape qwen2-small\n\n"
    "    steersweep bench gpu --data dev.json\n\n"
    "    steersweep bench cluster --replicas 4",
)

# The modules behind a command are imported by it, as in jobs/cli.py.

ShapeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Random weights of this shape: gemma2-2b, gemma2-mid, llama-1b, ... (a wrong name "
        "lists all)",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Model to measure: a local folder or a hub id"),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="StereoSet's dev.json (default: the examples in the package)"
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="What the data file is: stereoset, choices, bbq, ... (a wrong name lists all)",
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option(metavar="1,3,5", help="Layers to steer at (default: every second layer)"),
]
CoeffsOption = Annotated[
    str | None, typer.Option(metavar="20,400", help="Coefficients at each layer (default: 20)")
]
DeviceOption = Annotated[str, typer.Option(help="Device: auto, cuda, mps or cpu")]
DtypeOption = Annotated[str, typer.Option(help="Number format: auto, float32, bfloat16, float16")]
ThreadsOption = Annotated[int | None, typer.Option(help="Number of CPU threads of PyTorch")]
TokensOption = Annotated[
    int | None,
    typer.Option(help="Tokens per batch of the engine (default: the best of a few)"),
]
RepeatsOption = Annotated[int, typer.Option(help="Time everything this often; take the median")]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object to stdout, and messages to stderr"),
]
JsonFileOption = Annotated[
    str | None,
    typer.Option("--json-file", metavar="FILE", help="Also write the JSON object to this file"),
]


class _Result(Protocol):
    def as_json(self) -> dict[str, Any]: ...


@bench_app.command()
def score(
    shape: ShapeOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    format_: FormatOption = "stereoset",
    rows: Annotated[
        int | None, typer.Option(help="Number of examples (default: as many as fit the time)")
    ] = None,
    layers: LayersOption = None,
    coeffs: CoeffsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    tokens_per_batch: TokensOption = None,
    seconds: Annotated[float, typer.Option(help="Total time to aim at, without loading")] = 60.0,
    repeats: RepeatsOption = 3,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Also time how the cost grows with coefficients and rows"),
    ] = False,
    json_: JsonOption = False,
    json_file: JsonFileOption = None,
) -> None:
    """Time scoring under steering: plain hooks, hooks in batches, and the engine.

    All three score the same rows. `python -m jobs.bench` does the same with the same options on
    machines that only have torch, transformers, numpy and safetensors.

    Examples:

        steersweep bench score --shape gemma2-mid --data dev.json

        steersweep bench score --model embedded:smollm2 --data bbq.jsonl --format bbq

        steersweep bench score --model google/gemma-2-2b --json-file bench.json
    """
    _score(
        shape=shape,
        model=model,
        data=data,
        format=format_,
        rows=rows,
        layers=layers,
        coeffs=coeffs,
        device=device,
        dtype=dtype,
        threads=threads,
        tokens_per_batch=tokens_per_batch,
        seconds=seconds,
        repeats=repeats,
        with_scaling=scaling,
        json=json_file,
        prints_json=json_,
    )


@bench_app.command()
def generate(
    shape: ShapeOption = None,
    model: ModelOption = None,
    coeffs: CoeffsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = None,
    prompts: Annotated[int, typer.Option(help="Number of prompts")] = 64,
    new_tokens: Annotated[int, typer.Option(help="Length of the longest answer in tokens")] = 64,
    rows_at_once: Annotated[
        int, typer.Option(help="Number of answers that are written at the same time")
    ] = 64,
    repeats: RepeatsOption = 3,
    json_: JsonOption = False,
    json_file: JsonFileOption = None,
) -> None:
    """Time steered generation: one prompt at a time, in batches, and in slots.

    Examples:

        steersweep bench generate --shape qwen2-small --coeffs 0,1,2

        steersweep bench generate --model Qwen/Qwen2.5-0.5B-Instruct --new-tokens 128
    """
    _generate(
        shape=shape,
        model=model,
        coeffs=coeffs,
        device=device,
        dtype=dtype,
        threads=threads,
        prompts=prompts,
        new_tokens=new_tokens,
        rows_at_once=rows_at_once,
        repeats=repeats,
        json=json_file,
        prints_json=json_,
    )


@bench_app.command()
def gpu(
    shape: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="real: the models of a real sweep; tiny: tiny ones that a CPU can run",
        ),
    ] = "real",
    data: DataOption = None,
    output: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Folder for gpu.json, gpu.md and gpu.log; those there are replaced"
        ),
    ] = "gpu-bench",
    sections: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Sections to run: some of environment,right,fast,profile,text (default: all)",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Limit of the whole run")] = 540.0,
    device: Annotated[str, typer.Option(help="Device: auto, cuda or cpu")] = "auto",
    json_: JsonOption = False,
) -> None:
    """Check and measure everything on a GPU, in one unattended run of at most nine minutes.

    Each measurement is tried alone, so a failure costs that measurement only, and results are on
    disk after every step: as tables in gpu.md, and all of them in gpu.json. Exits with 1 if a step
    failed. `python -m jobs.bench gpu` does the same with the same options on machines that only
    have torch, transformers, numpy and safetensors.

    Examples:

        steersweep bench gpu --data dev.json

        steersweep bench gpu --sections right,fast --seconds 300

        steersweep bench gpu --shape tiny --device cpu
    """
    from jobs.bench.gpu.command import section_names
    from jobs.bench.gpu.driver import bench_gpu
    from jobs.bench.gpu.options import GpuOptions
    from jobs.console import configure, print_json, say

    configure(as_json=json_)
    options = GpuOptions(
        shape=shape,
        data=data,
        output=output,
        sections=section_names(sections),
        seconds=seconds,
        device=device,
    )
    result = bench_gpu(options, say)
    if json_:
        print_json(result.as_json())
    raise typer.Exit(result.exit_code)


@bench_app.command()
def cluster(
    shape: ShapeOption = None,
    data: DataOption = None,
    layers: LayersOption = None,
    coeffs: CoeffsOption = None,
    replicas: Annotated[
        int, typer.Option(help="Number of replicas on Ray that are compared with one")
    ] = 2,
    tasks: Annotated[int, typer.Option(help="Number of tasks in each measurement")] = 4,
    task_seconds: Annotated[float, typer.Option(help="Length of a task in seconds")] = 5.0,
    threads: ThreadsOption = None,
    tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens per batch")] = None,
    repeats: RepeatsOption = 3,
    json_: JsonOption = False,
    json_file: JsonFileOption = None,
) -> None:
    """Time what Ray costs and gains: in process, one replica, several replicas.

    Runs on the CPU, with random weights.

    Examples:

        steersweep bench cluster --shape qwen2-small --data dev.json

        steersweep bench cluster --replicas 4 --tasks 8
    """
    _cluster(
        shape=shape,
        data=data,
        layers=layers,
        coeffs=coeffs,
        replicas=replicas,
        tasks=tasks,
        task_seconds=task_seconds,
        threads=threads,
        tokens_per_batch=tokens_per_batch,
        repeats=repeats,
        json=json_file,
        prints_json=json_,
    )


def _score(*, prints_json: bool = False, **given: Any) -> None:
    from jobs.bench.run import bench
    from jobs.bench.subject import BenchOptions

    _measure(bench, BenchOptions, given, prints_json=prints_json)


def _generate(*, prints_json: bool = False, **given: Any) -> None:
    from jobs.bench.generate import GenerateOptions, bench_generate

    _measure(bench_generate, GenerateOptions, given, prints_json=prints_json)


def _cluster(*, prints_json: bool = False, **given: Any) -> None:
    """The one benchmark that needs Ray and Arrow."""
    from jobs.bench.cluster import ClusterOptions, bench_cluster

    _measure(bench_cluster, ClusterOptions, given, prints_json=prints_json)


def _measure(
    measure: Callable[[Any, Callable[[str], None]], _Result],
    options: type[Options],
    given: dict[str, Any],
    *,
    prints_json: bool,
) -> None:
    """Run a benchmark; an option that is None keeps its default."""
    from jobs.bench.options import numbers
    from jobs.console import configure, print_json, say

    configure(as_json=prints_json)
    chosen = {name: value for name, value in given.items() if value is not None}
    if "layers" in chosen:
        chosen["layers"] = numbers(chosen["layers"], int, "--layers")
    if "coeffs" in chosen:
        chosen["coeffs"] = numbers(chosen["coeffs"], float, "--coeffs")
    result = measure(options(**chosen), say)
    if prints_json:
        print_json(result.as_json())
