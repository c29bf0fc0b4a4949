"""The ``steersweep`` command."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import __version__
from jobs.bench_cli import bench_app
from jobs.vectors_cli import vectors_app

if TYPE_CHECKING:
    from cluster.storage import Storage

app = typer.Typer(
    name="steersweep",
    help="Run large activation-steering sweeps over language models.\n\nExamples:\n\n"
    "    steersweep run demo\n\n"
    "    steersweep plan sweep.yaml\n\n"
    "    steersweep status runs/gemma2",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Download data sets.\n\nExamples:\n\n    steersweep data fetch --to dev.json",
)
app.add_typer(data_app, name="data")
app.add_typer(vectors_app, name="vectors")
app.add_typer(bench_app, name="bench")


_NO = ("0", "false", "no", "off", "f", "n")

# The modules behind a command are imported by it: torch and Ray take seconds to load, --help none.

SpecArgument = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="Sweep file (YAML), or an example: `demo`, ..."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the sweep file, as in `steering.coeffs=[20,400]`; repeatable",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Write results to this folder or s3://bucket/prefix instead of the file's `output`",
    ),
]
NewOption = Annotated[
    bool, typer.Option("--new", help="Write to OUTPUT-2 instead of resuming OUTPUT")
]
UriArgument = Annotated[
    str, typer.Argument(metavar="URI", help="Output of a run: a folder or s3://bucket/prefix")
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url", metavar="URL", help="Endpoint of an S3-compatible store (MinIO, R2, ...)"
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only")]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object to stdout, and messages to stderr"),
]
NoFiguresOption = Annotated[
    bool,
    typer.Option(
        "--no-figures",
        help="Do not draw figures/ (also: environment variable STEERSWEEP_FIGURES=0)",
    ),
]
FiguresOption = Annotated[
    bool, typer.Option("--figures", hidden=True, help="Draw figures/ even if the variable says no")
]


@app.command()
def run(
    spec: SpecArgument,
    set_: SetOption = None,
    output: OutputOption = None,
    new: NewOption = False,
    no_figures: NoFiguresOption = False,
    figures: FiguresOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a sweep, or resume one.

    If the output holds part of the same sweep, only the rest is computed. Layers, coefficients,
    bias types and models may be added later.

    Exit code 0: everything is done. 1: some tasks failed; the others are kept. 2: you must change
    something. 130: interrupted; what is finished is kept.

    Examples:

        steersweep run demo

        steersweep run sweep.yaml --output s3://bucket/gemma2

        steersweep run sweep.yaml --set data.limit=20
    """
    _configure(verbose=verbose, quiet=quiet)
    from jobs.sweeps.named import run_sweeps

    draws = _draws_figures(no_figures=no_figures, figures=figures)
    raise typer.Exit(run_sweeps(spec, set_ or [], output, new=new, figures=draws))


@app.command()
def submit(
    spec: SpecArgument,
    address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="Dashboard of the Ray cluster's head node",
        ),
    ] = "http://127.0.0.1:8265",
    set_: SetOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Write results to s3://bucket/prefix, or to a folder that all nodes share",
        ),
    ] = None,
    new: NewOption = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait for the run to finish and return its exit code (default: wait until the "
            "first replica is ready)",
        ),
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return as soon as the job is submitted")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Set an environment variable for driver and replicas; everybody with access to "
            "the dashboard can read it; repeatable",
        ),
    ] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Fail at once if a node lacks this environment variable (HF_TOKEN); repeatable",
        ),
    ] = None,
    pip: Annotated[
        bool,
        typer.Option(
            "--pip",
            help="Install steersweep's dependencies on the nodes first (default: assume the image "
            "has them)",
        ),
    ] = False,
    driver_cpus: Annotated[
        float,
        typer.Option(min=0, help="CPUs to reserve for the driver (0: run it on the head node)"),
    ] = 0.0,
    no_figures: NoFiguresOption = False,
    figures: FiguresOption = False,
) -> None:
    """Run a sweep as a job on a Ray cluster.

    Uploads this package and the sweep file, with `--set` and `--output` applied. Weights, data and
    credentials are not uploaded: the nodes must have them (HF_TOKEN, AWS_*). A sweep that is
    running is not started again. Stopping the job keeps what is finished; submitting again
    resumes it.

    Exit code 0: the run has started (with `--wait`: everything is done). 1: the run or some of its
    tasks failed. 2: you must change something. 130: the job was stopped.

    Examples:

        steersweep submit sweep.yaml --address http://head:8265 --output s3://bucket/gemma2

        steersweep submit sweep.yaml --needs HF_TOKEN --set compute.replicas=8

        steersweep submit sweep.yaml --wait
    """
    from steersweep.errors import UserError

    if wait and no_wait:
        raise UserError("give --wait or --no-wait, not both")
    from jobs.submit.command import SubmitOptions
    from jobs.submit.command import submit as submit_job
    from jobs.sweeps.named import load_one_sweep

    sweep = load_one_sweep(spec, set_ or [], output, command="submit")
    options = SubmitOptions(
        address=address,
        new=new,
        figures=_draws_figures(no_figures=no_figures, figures=figures),
        wait="end" if wait else "no" if no_wait else "start",
        env=env or (),
        needs=needs or (),
        with_pip=pip,
        driver_cpus=driver_cpus,
    )
    raise typer.Exit(submit_job(sweep, options))


@app.command(context_settings={"allow_extra_args": True})
def plan(
    context: typer.Context,
    spec: SpecArgument,
    set_: SetOption = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Plan for this output instead of the file's `output`"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Estimate from the stated FLOP/s of this device instead of measuring here: h100, "
            "a100, l4, tpu-v5e, ... (a wrong name lists all)",
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            help="Number of replicas (default: the file's, or as many as this machine has room for)"
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Fraction of the device's peak FLOP/s to assume  [default: 0.3]"),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Seconds to measure each model on this machine (0: do not measure)"),
    ] = 20.0,
    json_: JsonOption = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json-file", metavar="FILE", help="Also write the JSON object to this file"),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print tables of work, memory and sessions")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the first line and warnings only")
    ] = False,
) -> None:
    """Dry run: rows, memory and time of a sweep.

    Runs nothing, writes nothing to the output, downloads no weights and starts no Ray. If the
    output holds part of the sweep, the rest is planned. The time is measured with a few batches if
    the weights are on this machine, or computed from the stated FLOP/s of a `--device`. Of a
    persona sweep, generation is only measured, and the time is an upper bound: it assumes that
    every answer reaches `max_new_tokens`.

    Exit code 2: you must change something; `run` would refuse the sweep for the same reason.

    Examples:

        steersweep plan sweep.yaml

        steersweep plan sweep.yaml --device h100 --replicas 8 --share 0.4

        steersweep plan sweep.yaml --seconds 0 --json-file plan.json
    """
    _refuse_extra(context, as_json=json_)
    _configure(verbose=verbose, quiet=quiet, as_json=json_)
    from jobs.console import say
    from jobs.sweeps import commands
    from jobs.sweeps.estimate import PlanOptions
    from jobs.sweeps.named import load_one_sweep, load_sweeps

    if json_ or json_file:
        sweeps = [load_one_sweep(spec, set_ or [], output, command="plan with --json")]
    else:
        sweeps = load_sweeps(spec, set_ or [], output)
    options = PlanOptions(device, replicas, share, seconds, json_file)
    for sweep in sweeps:
        if len(sweeps) > 1:
            say(f"{sweep.output}:")
        commands.plan(sweep, options, prints_json=json_)


@app.command()
def status(
    uri: UriArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the run ends")] = False,
    every: Annotated[float, typer.Option(min=1, help="Refresh interval in seconds")] = 10.0,
    endpoint_url: EndpointOption = None,
    json_: JsonOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print every group of examples, and batch sizes")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print state, progress and warnings only")
    ] = False,
) -> None:
    """Show the progress of a run, live or finished.

    Reads the output alone, so it works from any machine that can read it.

    Examples:

        steersweep status runs/gemma2

        steersweep status s3://bucket/gemma2 --watch

        steersweep status runs/gemma2 --json
    """
    _configure(verbose=verbose, quiet=quiet, as_json=json_)
    from jobs.sweeps import commands
    from steersweep.errors import UserError

    if watch and json_:
        raise UserError("give --watch or --json, not both")
    storage = _open(uri, endpoint_url)
    if watch:
        commands.watch(storage, every)
    else:
        commands.status(storage, prints_json=json_)


def _compared(first: str | None, others: list[str] | None) -> list[str]:
    """The runs behind ``--compare``; click gives an option one value, so the others follow it."""
    if first is None and others:
        raise typer.BadParameter(
            f"unexpected {others[0]!r}; to compare runs, write `report URI --compare URI ...`"
        )
    return [] if first is None else [first, *(others or [])]


@app.command()
def report(
    uri: UriArgument,
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URI ...]", help="More runs to compare with, after --compare URI"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="Print a row for each value of these columns. stereoset: `bias_type`, `layer` or "
            "`layer,bias_type` (default: pooled over both); persona: some of `model`, `trait`, "
            "`layer`, `positions`, `coeff` (default: all of them)",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="URI [URI ...]",
            help="Other runs to compare with: paired differences; runs that differ only in "
            "data.seed are also summarized together",
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Choose the steerings whose change satisfies a condition, those with the least "
            "side effects first. Half of the data chooses, and the numbers shown are of the other "
            'half. A metric, >=, >, <= or <, and a number: `"s2a >= 0.1"`',
        ),
    ] = None,
    no_figures: NoFiguresOption = False,
    figures: FiguresOption = False,
    endpoint_url: EndpointOption = None,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rebuild tables, figures and report.html from stored results.

    Writes `summary/` (Parquet, CSV), `figures/` (PNG, PDF), `report.html` and `certificate.json`
    into the output, and prints the result: one row per model, split and coefficient.

    Examples:

        steersweep report runs/gemma2

        steersweep report runs/gemma2 --by layer,bias_type

        steersweep report runs/gemma2 --pick "s2a >= 0.1"

        steersweep report runs/in-sample --compare runs/cross-fitted

        steersweep report runs/seed0 --compare runs/seed1 runs/seed2 runs/seed3
    """
    _configure(verbose=verbose, quiet=quiet, as_json=json_)
    from jobs.sweeps import commands

    commands.report(
        _open(uri, endpoint_url),
        figures=_draws_figures(no_figures=no_figures, figures=figures),
        others=[_open(other, endpoint_url) for other in _compared(compare, others)],
        by=by,
        pick=pick,
        prints_json=json_,
    )


@app.command()
def verify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="URI|SPEC", help="Output of a run, or the sweep file or example that made it"
        ),
    ],
    rows: Annotated[
        int, typer.Option(min=1, help="Number of rows or answers to check for each model")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Random seed for choosing which rows to check")] = 0,
    endpoint_url: EndpointOption = None,
    json_: JsonOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the worst row of each model")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Recompute a random sample of stored rows with plain Hugging Face and compare.

    Loads model and data from where the run had them, in this process, and writes nothing.

    Exit code 0: all rows are within the tolerance. 1: a row is not. 2: you must change something.

    Examples:

        steersweep verify runs/gemma2

        steersweep verify demo-tiny --rows 100 --seed 1
    """
    _configure(verbose=verbose, quiet=quiet, as_json=json_)
    from jobs.sweeps import commands
    from jobs.sweeps.named import storages_of
    from steersweep.errors import UserError

    storages = storages_of(source, endpoint_url)
    if json_ and len(storages) > 1:
        raise UserError(f"{source} has several outputs; verify --json takes one of them as URI")
    codes = [commands.verify(storage, rows, seed, prints_json=json_) for storage in storages]
    raise typer.Exit(max(codes))


@app.command()
def export(
    uri: UriArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE.parquet", help="The file to write, on this machine")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE.parquet if it exists")
    ] = False,
    side_effects: Annotated[
        bool,
        typer.Option(
            "--side-effects",
            help="Write the rows of every measured data set, in one layout, instead of the sweep's "
            "own rows",
        ),
    ] = False,
    endpoint_url: EndpointOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write all rows of an output into one flat Parquet file, with the texts.

    Each row has its model, split and bias type, and the context and candidates of its example. The
    column `table` says whether it is a baseline, steered or null row. Of a persona sweep, the file
    has the answers with their scores. The license of the texts, if it is known, is in the file's
    metadata. `datasets.load_dataset("parquet", data_files="FILE.parquet")` reads the file.

    Examples:

        steersweep export runs/gemma2 gemma2.parquet

        steersweep export runs/gemma2 side-effects.parquet --side-effects

        steersweep export s3://bucket/gemma2 gemma2.parquet --overwrite
    """
    _configure(verbose=False, quiet=quiet)
    from jobs.export import export as write_flat_file

    write_flat_file(_open(uri, endpoint_url), file, overwrite=overwrite, side_effects=side_effects)


@app.command()
def schema(
    job: Annotated[
        str, typer.Option(metavar="NAME", help="Kind of sweep: stereoset or persona")
    ] = "stereoset",
) -> None:
    """Print the JSON Schema of the sweep file.

    Editors use it to complete and check YAML files.

    Examples:

        steersweep schema > stereoset.schema.json

        steersweep schema --job persona
    """
    from jobs.console import print_json
    from jobs.sweeps.registry import spec_type

    print_json(spec_type(job).model_json_schema())


@data_app.command()
def fetch(
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL|FILE", help="Download from this URL, or import this file"
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Save it as this file (default: in the cache folder)"),
    ] = None,
) -> None:
    """Download StereoSet's development set and verify it.

    Prints the path of the file, for `data.path` of a sweep file.

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
        UserError: both more and less are asked for.
    """
    from jobs.console import configure
    from steersweep.errors import UserError

    if verbose and quiet:
        raise UserError("give --verbose or --quiet, not both")
    configure(verbose=verbose, quiet=quiet, as_json=as_json)


def _draws_figures(*, no_figures: bool, figures: bool) -> bool:
    """Whether to draw figures: as the options say, or else STEERSWEEP_FIGURES."""
    from steersweep.errors import UserError

    if no_figures and figures:
        raise UserError("give --figures or --no-figures, not both")
    variable = os.environ.get("STEERSWEEP_FIGURES", "").strip().lower()
    return figures or not (no_figures or variable in _NO)


def _refuse_extra(context: typer.Context, *, as_json: bool) -> None:
    """Refuse arguments that are left over; `--json FILE` was an option of earlier versions.

    Raises:
        UserError: there are some.
    """
    from steersweep.errors import UserError

    if context.args and as_json:
        raise UserError(
            f"--json prints to stdout and takes no file; to write one use --json-file "
            f"{context.args[0]}"
        )
    if context.args:
        raise UserError(f"unexpected argument {context.args[0]!r}; give one SPEC")


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
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit"
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: 0 done, 1 tasks failed, 2 the user must act, 130 interrupted.

    An error that nobody expected ends with its traceback and 1.
    """
    from cluster.errors import ClusterError
    from jobs.advice import advise
    from jobs.console import complain, configure, show_bug
    from steersweep.errors import UserError

    code = 0
    # Read when torch is loaded. By default OpenMP's threads spin while they wait for each other,
    # which makes a run several times slower as soon as other programs want the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Every batch has another shape: without this, torch keeps GPU memory in pieces that fit none.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    configure()  # the last command of this process may have changed it
    try:
        app()
    except UserError as error:
        advise(error)
        complain(*error.lines)
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
