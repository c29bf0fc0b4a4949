"""The ``steersweep`` command."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import __version__
from jobs.vectors_cli import vectors_app

if TYPE_CHECKING:
    from cluster.storage import Storage
    from jobs.kinds import AnySpec

app = typer.Typer(
    name="steersweep",
    help="Large activation-steering sweeps over language models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(data_app, name="data")
app.add_typer(vectors_app, name="vectors")


# The modules behind a command are imported by it: torch and Ray take seconds to load, --help none.

SpecArgument = Annotated[
    str, typer.Argument(metavar="SPEC", help="A sweep's YAML file, or an example: `demo`, ...")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, as in `--set steering.coeffs=[20,400]`; repeatable",
    ),
]
UriArgument = Annotated[
    str, typer.Argument(metavar="URI", help="A run's output: a folder or s3://bucket/prefix")
]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint-url", metavar="URL", help="Of an S3-compatible store")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only")]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object on standard output; messages go to standard error",
    ),
]
FiguresOption = Annotated[
    bool,
    typer.Option(
        envvar="STEERSWEEP_FIGURES",
        help="Whether figures/ is drawn, which takes a second for each",
    ),
]


@app.command()
def run(
    spec: SpecArgument,
    set_: SetOption = None,
    output: Annotated[
        str | None, typer.Option(metavar="URI", help="Where the results go, instead of the spec's")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start afresh beside an output that is there already")
    ] = False,
    figures: FiguresOption = True,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a sweep, or go on with one.

    Where the output holds part of the same sweep, only what is missing is computed; a grid that
    grew (layers, coefficients, bias types, models) is extended. Exit code 0: all done; 1: tasks
    failed, the rest is kept; 2: something must be changed; 130: interrupted, what is done is kept.

    Examples:

        steersweep run demo

        steersweep run sweep.yaml --output s3://bucket/gemma2

        steersweep run sweep.yaml --set data.limit=20 --set compute.executor=in_process
    """
    _configure(verbose=verbose, quiet=quiet)
    from jobs.sweeps import run_sweeps

    raise typer.Exit(run_sweeps(spec, set_ or [], output, new=new, figures=figures))


@app.command()
def submit(
    spec: SpecArgument,
    address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The dashboard of the cluster's head",
        ),
    ] = "http://127.0.0.1:8265",
    set_: SetOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Where the results go: s3://bucket/prefix, or a folder that all nodes share",
        ),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start afresh beside an output that is there already")
    ] = False,
    wait: Annotated[
        bool | None,
        typer.Option(
            help="Follow it to its end, and end as it does; or not at all. Left out: until a "
            "replica is ready, or for a minute",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting for driver and replicas, which anybody at the dashboard can read; "
            "repeatable",
        ),
    ] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A variable that every node must have, such as HF_TOKEN: a driver or replica "
            "without it says so at once; repeatable",
        ),
    ] = None,
    pip: Annotated[
        bool,
        typer.Option(
            "--pip", help="Let the nodes install what this needs; left out: their image has it"
        ),
    ] = False,
    driver_cpus: Annotated[
        float, typer.Option(min=0, help="That the driver asks Ray for; with 0 it runs on the head")
    ] = 0.0,
    figures: FiguresOption = True,
) -> None:
    """Run a sweep as a job of a Ray cluster that is reached by its dashboard.

    This package and the spec, with `--set` and `--output` applied, travel along; weights, data and
    credentials never do: the nodes' own environment has HF_TOKEN and AWS_*. A sweep that runs
    already is not started again. Stopping keeps what is finished, submitting again goes on from
    there. Exit code 0: it has started well (with `--wait`: all done); 1: the run failed, or tasks
    of it; 2: something must be changed; 130: it was stopped.

    Examples:

        steersweep submit sweep.yaml --address http://head:8265 --output s3://bucket/gemma2

        steersweep submit sweep.yaml --needs HF_TOKEN --set compute.replicas=8

        steersweep submit sweep.yaml --wait
    """
    from jobs.submit.command import SubmitOptions
    from jobs.submit.command import submit as submit_job
    from jobs.sweeps import load_one_sweep

    sweep = load_one_sweep(spec, set_ or [], output, command="submit")
    options = SubmitOptions(
        address=address,
        new=new,
        figures=figures,
        wait="start" if wait is None else "end" if wait else "no",
        env=env or (),
        needs=needs or (),
        with_pip=pip,
        driver_cpus=driver_cpus,
    )
    raise typer.Exit(submit_job(sweep, options))


@app.command()
def plan(
    spec: SpecArgument,
    set_: SetOption = None,
    output: Annotated[
        str | None, typer.Option(metavar="URI", help="Where the results would go")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Estimate for this accelerator, from its stated rates, instead of this machine: "
            "rtx-4090, a100, h100, b200, mi300x, tpu-v5e, ...; a wrong name lists all",
        ),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Default: the spec's, or what this machine has room for")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Of a --device's stated rate that is reached: an assumption [0.3]"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="For measuring each model on this machine; 0: do not")
    ] = 20.0,
    json_: JsonOption = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json-file", metavar="FILE", help="Also write the JSON object to this file"),
    ] = None,
    verbose: VerboseOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the first line and warnings only")
    ] = False,
) -> None:
    """Tell what a sweep would run, and how long it would take; runs and writes nothing.

    Tasks, passes, tokens x blocks beside those of a plain loop, needed FLOPs, bytes, memory of a
    replica, time. Where the output holds part of the sweep, what is left is planned, and what
    earlier sessions planned and did is shown. Time comes from a short measurement where the
    weights are on this machine, or from the stated rates of a `--device`. Of a persona sweep:
    answers, tokens and the judge's queries, without time. Starts no Ray, downloads no weights.
    Exit code 2: something must be changed, as for `run`.

    Examples:

        steersweep plan sweep.yaml

        steersweep plan sweep.yaml --device h100 --replicas 8 --share 0.4

        steersweep plan sweep.yaml --set data.limit=20 --seconds 0 --json-file plan.json
    """
    _configure(verbose=verbose, quiet=quiet, as_json=json_)
    from jobs.sweeps import load_one_sweep, load_sweeps

    if json_ or json_file:
        sweeps = [load_one_sweep(spec, set_ or [], output, command="plan with --json")]
    else:
        sweeps = load_sweeps(spec, set_ or [], output)
    for sweep in sweeps:
        _plan(sweep, device, replicas, share, seconds, json_file, prints_json=json_)


def _plan(
    sweep: AnySpec,
    device: str | None,
    replicas: int | None,
    share: float | None,
    seconds: float,
    json_file: str | None,
    *,
    prints_json: bool,
) -> None:
    """Plan one sweep, of either job."""
    from jobs.persona.spec import PersonaSpec
    from steering_core.errors import InputError

    if isinstance(sweep, PersonaSpec):
        from jobs.persona.forecast import plan as tell_of_persona

        if (device, replicas, share) != (None, None, None):
            raise InputError(
                "--device, --replicas and --share are for job stereoset; no time is forecast for "
                "job persona: leave them out"
            )
        tell_of_persona(sweep, json_file, prints_json=prints_json)
        return
    from jobs.stereoset.forecast.command import PlanOptions
    from jobs.stereoset.forecast.command import plan as tell

    tell(sweep, PlanOptions(device, replicas, share, seconds, json_file, prints_json=prints_json))


@app.command()
def status(
    uri: UriArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again while a driver is at it")
    ] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks")] = 10.0,
    endpoint_url: EndpointOption = None,
) -> None:
    """Show the progress of a run, live or finished, from its output alone.

    Examples:

        steersweep status runs/gemma2

        steersweep status s3://bucket/gemma2 --watch
    """
    from jobs import outputs

    storage = _open(uri, endpoint_url)
    if watch:
        outputs.watch(storage, every)
    else:
        outputs.status(storage)


@app.command()
def report(
    uri: UriArgument,
    endpoint_url: EndpointOption = None,
    figures: FiguresOption = True,
    compare: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Another run, to be shown beside this one"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="Print a row for each value of these columns, too: bias_type, layer, or both "
            "with a comma between them",
        ),
    ] = None,
) -> None:
    """Rebuild tables, figures and report.html from stored results.

    Writes `summary/` (Parquet, CSV), `figures/` (PNG, PDF), `report.html` and `certificate.json`
    into the output, and prints the result: one row per model, split and coefficient.

    Examples:

        steersweep report runs/gemma2

        steersweep report runs/gemma2 --by layer,bias_type

        steersweep report runs/in-sample --compare runs/cross-fitted
    """
    from jobs import outputs

    beside = None if compare is None else _open(compare, endpoint_url)
    outputs.report(_open(uri, endpoint_url), figures=figures, beside=beside, by=by)


@app.command()
def verify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="URI|SPEC", help="A run's output, or the sweep file or example that made it"
        ),
    ],
    rows: Annotated[
        int, typer.Option(min=1, help="Rows or answers of each model, steered or not")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Of the draw")] = 0,
    endpoint_url: EndpointOption = None,
) -> None:
    """Compute some rows of an output again, the slow and obvious way, and compare.

    Takes model and data from where the run had them; starts no Ray and writes nothing. Exit code
    0: every drawn row is within the tolerance; 1: one is not; 2: something must be changed.

    Examples:

        steersweep verify runs/gemma2

        steersweep verify demo-tiny --rows 100 --seed 1
    """
    from jobs import outputs
    from jobs.sweeps import storages_of

    storages = storages_of(source, endpoint_url)
    raise typer.Exit(max(outputs.verify(storage, rows, seed) for storage in storages))


@app.command()
def export(
    uri: UriArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE.parquet", help="The file to write, on this machine")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE.parquet if it exists")
    ] = False,
    endpoint_url: EndpointOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write all rows of an output into one flat Parquet file, with the texts.

    Each row has its model, split and bias type as columns, and the context and candidates behind
    its id; the column `table` tells baseline, steered and null rows apart. Of a persona sweep:
    the answers with their scores. The license of the texts, where it is known, is in the file's
    metadata. `datasets.load_dataset("parquet", data_files="FILE.parquet")` reads the file.

    Examples:

        steersweep export runs/gemma2 gemma2.parquet

        steersweep export s3://bucket/gemma2 gemma2.parquet --overwrite
    """
    _configure(verbose=False, quiet=quiet)
    from jobs.export import export as write_flat_file

    write_flat_file(_open(uri, endpoint_url), file, overwrite=overwrite)


@app.command()
def bench(
    shape: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Random weights: gemma2-2b, gemma2-mid, llama-1b, ..."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="A local folder or hub id, not a shape")
    ] = None,
    json_: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the results there, too")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="StereoSet's dev.json; default: embedded")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Examples; default: what fits the time")] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="1,3,5", help="Default: every second")
    ] = None,
    coeffs: Annotated[str | None, typer.Option(metavar="20,400", help="Default: 20")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps, cpu")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Of torch on the CPU")] = None,
    tokens_per_batch: Annotated[
        int | None, typer.Option(help="Of the engine; default: the best of a few")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Wall time to aim at")] = 60.0,
    repeats: Annotated[int, typer.Option(help="The median of these counts")] = 3,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Also time how the cost grows"),
    ] = False,
    generate: Annotated[
        bool,
        typer.Option("--generate", help="Time steered generation instead of scoring"),
    ] = False,
    prompts: Annotated[int, typer.Option(help="With --generate")] = 64,
    new_tokens: Annotated[int, typer.Option(help="Of an answer, with --generate")] = 64,
    rows_at_once: Annotated[int, typer.Option(help="Slots, with --generate")] = 64,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Time one replica against several, and Ray against none"),
    ] = False,
    replicas: Annotated[int, typer.Option(help="Held against one, with --cluster")] = 2,
    tasks: Annotated[int, typer.Option(help="Of each way and repeat, with --cluster")] = 4,
    task_seconds: Annotated[float, typer.Option(help="Length of a task, with --cluster")] = 5.0,
) -> None:
    """Measure this machine: plain hooked loops beside the engine, on the same rows.

    Where only torch, transformers, numpy and safetensors are installed, `python -m jobs.bench`
    does the same with the same options.

    Examples:

        steersweep bench --shape gemma2-mid --data dev.json

        steersweep bench --model google/gemma-2-2b --json bench.json

        steersweep bench --generate --shape qwen2-small --coeffs 0,1,2

        steersweep bench --cluster --shape qwen2-small --data dev.json
    """
    from jobs.bench.generate import GenerateOptions, bench_generate
    from jobs.bench.options import numbers
    from jobs.bench.run import bench as measure
    from jobs.bench.subject import BenchOptions
    from jobs.console import say

    if cluster:
        if model is not None or device not in ("auto", "cpu") or generate:
            from steering_core.errors import InputError

            raise InputError("--cluster measures a --shape on the CPU; leave the others out")
        _bench_cluster(
            shape=shape,
            data=data,
            layers=None if layers is None else numbers(layers, int, "--layers"),
            coeffs=None if coeffs is None else numbers(coeffs, float, "--coeffs"),
            replicas=replicas,
            threads=threads,
            task_seconds=task_seconds,
            tasks=tasks,
            tokens_per_batch=tokens_per_batch,
            repeats=repeats,
            json=json_,
        )
        return
    if generate:
        bench_generate(
            GenerateOptions(
                shape=shape,
                model=model,
                coeffs=(
                    GenerateOptions.coeffs if coeffs is None else numbers(coeffs, float, "--coeffs")
                ),
                device=device,
                dtype=dtype,
                threads=threads,
                prompts=prompts,
                new_tokens=new_tokens,
                rows_at_once=rows_at_once,
                repeats=repeats,
                json=json_,
            ),
            say,
        )
        return
    options = BenchOptions(
        shape=shape,
        model=model,
        data=data,
        rows=rows,
        layers=() if layers is None else numbers(layers, int, "--layers"),
        coeffs=BenchOptions.coeffs if coeffs is None else numbers(coeffs, float, "--coeffs"),
        device=device,
        dtype=dtype,
        threads=threads,
        tokens_per_batch=tokens_per_batch,
        seconds=seconds,
        repeats=repeats,
        with_scaling=scaling,
        json=json_,
    )
    measure(options, say)


def _bench_cluster(**given: Any) -> None:
    """The one bench that needs Ray and Arrow; what is None keeps its default."""
    from jobs.bench.cluster import ClusterOptions, bench_cluster
    from jobs.console import say

    chosen = {name: value for name, value in given.items() if value is not None}
    bench_cluster(ClusterOptions(**chosen), say)


@app.command()
def schema(
    job: Annotated[str, typer.Option(metavar="NAME", help="stereoset, persona")] = "stereoset",
) -> None:
    """Print the JSON Schema of the sweep file, for editors that check YAML against one.

    Examples:

        steersweep schema > stereoset.schema.json

        steersweep schema --job persona
    """
    from jobs.console import say
    from jobs.kinds import spec_kind

    say(json.dumps(spec_kind(job).model_json_schema(), indent=2))


@data_app.command()
def fetch(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL|FILE", help="A mirror or a file, not the official one"),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to keep it, instead of the cache")
    ] = None,
) -> None:
    """Download StereoSet's development set, check it, and print where it is.

    Examples:

        steersweep data fetch

        steersweep data fetch --from ~/downloads/dev.json --to dev.json
    """
    from jobs.console import say
    from jobs.data import fetch_stereoset

    say(str(fetch_stereoset(source, to)))


def _configure(*, verbose: bool, quiet: bool, as_json: bool = False) -> None:
    """Set how much the command prints.

    Raises:
        InputError: both more and less are asked for.
    """
    from jobs.console import configure
    from steering_core.errors import InputError

    if verbose and quiet:
        raise InputError("give --verbose or --quiet, not both")
    configure(verbose=verbose, quiet=quiet, as_json=as_json)


def _open(uri: str, endpoint_url: str | None) -> Storage:
    """The storage of an output, once it answers."""
    from cluster.storage import StorageSpec

    storage = StorageSpec(uri, endpoint_url).open()
    storage.check_reachable()
    return storage


def _version(show: bool) -> None:
    if show:
        typer.echo(f"steersweep {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _show: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version"),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: 0 done, 1 tasks failed, 2 the user must act, 130 interrupted.

    An error that nobody expected ends with its traceback and 1.
    """
    from cluster.errors import ClusterError, CorruptPartError, UserActionError
    from jobs.console import complain, configure, show_bug
    from steering_core.errors import InputError

    code = 0
    configure()  # the last command of this process may have changed it
    try:
        app()
    except InputError as error:
        complain(*error.lines)
        code = 2
    except (UserActionError, CorruptPartError) as error:
        complain(str(error))
        code = 2
    except ClusterError as error:
        complain(str(error))
        code = 1
    except Exception as error:  # a bug: its traceback may quote what must stay secret
        show_bug(error)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
