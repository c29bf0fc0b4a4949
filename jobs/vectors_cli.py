"""``steersweep vectors``: exchange of steering vectors with other tools."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steering_core.exchange.formats import Format
    from steering_core.exchange.vector_file import VectorFile

vectors_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Inspect steering vectors and exchange them with other tools.\n\nExamples:\n\n"
    "    steersweep vectors show happy.gguf\n\n"
    "    steersweep vectors import happy.gguf happy.safetensors",
)

# The modules behind a command are imported by it, as in jobs/cli.py.


class Target(enum.StrEnum):
    """Formats to export to, as ``steering_core.exchange.formats`` names them."""

    PERSONA_VECTORS = "persona_vectors"
    REPENG = "repeng"
    STEERING_VECTORS = "steering_vectors"
    SAFETENSORS = "safetensors"


SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="File of vectors in any supported format: a path or s3://bucket/key"
    ),
]
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="File to write: a path or s3://bucket/key")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace TARGET if it exists")]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url", metavar="URL", help="Endpoint of an S3-compatible store (MinIO, R2, ...)"
    ),
]
LayersOption = Annotated[
    str | None, typer.Option(metavar="1,3,5", help="Layers to take (default: all)")
]


@vectors_app.command("import")
def import_(
    source: SourceArgument,
    target: TargetArgument,
    layers: LayersOption = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the model, stored as provenance"),
    ] = None,
    force: ForceOption = False,
    endpoint_url: EndpointOption = None,
) -> None:
    """Convert another tool's vectors to the safetensors format that runs write.

    The format is recognized by the content of the file: persona_vectors (`.pt`, one tensor of
    blocks + 1 rows), repeng and llama.cpp (GGUF control vector), steering-vectors (`.pt`), or this
    project's own. Values stay the same bits (half precision becomes float32), layer numbers are
    converted, and no code in a file is executed.

    Examples:

        steersweep vectors import evil_response_avg_diff.pt evil.safetensors

        steersweep vectors import happy.gguf happy.safetensors --model mistralai/Mistral-7B-v0.1
    """
    from dataclasses import replace

    from jobs import __version__
    from jobs.console import say
    from jobs.vector_files import read_vector_file, write_vector_file
    from steering_core.exchange.vector_file import write_native

    kind, file = read_vector_file(source, endpoint_url)
    file = _selected(file, layers)
    provenance = {"created_by": f"steersweep {__version__}", **file.provenance}
    if model is not None:
        provenance["model"] = model
    written = write_native(replace(file, provenance=provenance))
    write_vector_file(target, written.data, replaces=force, endpoint_url=endpoint_url)
    say(f"{target}: layers {_numbers(file)} from a file of {kind}")


@vectors_app.command()
def export(
    source: SourceArgument,
    target: TargetArgument,
    to: Annotated[Target, typer.Option("--to", help="Format to write")],
    layers: LayersOption = None,
    fold: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Fold of cross-fitted vectors to write (default: those of all folds)",
        ),
    ] = None,
    num_blocks: Annotated[
        int | None,
        typer.Option(min=1, help="Number of blocks of the model, which persona_vectors needs"),
    ] = None,
    model_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="model_type of the model's config, which repeng needs",
        ),
    ] = None,
    force: ForceOption = False,
    endpoint_url: EndpointOption = None,
) -> None:
    """Convert vectors to another tool's format and layer numbers.

    Examples:

        steersweep vectors export runs/gemma2/vectors/base/intersentence/gender.safetensors \\
        gender.gguf --to repeng --model-type gemma2

        steersweep vectors export evil.safetensors evil.pt --to persona_vectors --num-blocks 26
    """
    from jobs.console import say, warn
    from jobs.vector_files import read_vector_file, write_vector_file
    from steering_core.exchange.formats import write_vectors

    _, file = read_vector_file(source, endpoint_url)
    file = _selected(file if fold is None else file.of_fold(fold), layers)
    kind: Format = to.value
    written = write_vectors(kind, file, num_blocks=num_blocks, model_type=model_type)
    write_vector_file(target, written.data, replaces=force, endpoint_url=endpoint_url)
    for note in written.notes:
        warn(note)
    say(f"{target}: layers {_numbers(file)} as a file of {kind}")


@vectors_app.command()
def show(source: SourceArgument, endpoint_url: EndpointOption = None) -> None:
    """Print layers, norms and provenance of a file of vectors.

    Also prints what other tools call each layer.

    Examples:

        steersweep vectors show runs/gemma2/vectors/base/intersentence/gender.safetensors

        steersweep vectors show happy.gguf
    """
    import numpy as np

    from jobs.console import print_table, say
    from jobs.vector_files import read_vector_file

    kind, file = read_vector_file(source, endpoint_url)
    folds = f", {file.num_folds} folds" if file.num_folds else ""
    say(f"{source}: a file of {kind}, {len(file.layers)} layers of width {file.width}{folds}")
    rows = [
        [
            str(layer),
            f"blocks.{layer - 1}.resid_post",
            f"{np.linalg.norm(file.vectors.whole[layer].astype(np.float64)):.6g}",
            f"row {layer}",
            f"direction.{layer - 1}",
            f"key {layer - 1}",
        ]
        for layer in file.layers
    ]
    if file.embeddings is not None:
        norm = np.linalg.norm(file.embeddings.astype(np.float64))
        rows.insert(0, ["-", "blocks.0.resid_pre", f"{norm:.6g}", "row 0", "-", "-"])
    # Other tools' names for a layer; two lines each, or the table is wider than 80 columns.
    columns = ("layer", "hook point", "norm", "persona_\nvectors", "repeng", "steering_\nvectors")
    say()
    print_table("", columns, rows)
    if file.provenance:
        say("\nprovenance")
        for key, value in file.provenance.items():
            say(f"  {key}: {value}")


def _selected(file: VectorFile, layers: str | None) -> VectorFile:
    from steersweep.errors import UserError

    if layers is None:
        return file
    try:
        wanted = [int(text) for text in layers.split(",")]
    except ValueError:
        raise UserError(f"--layers must be numbers separated by commas, got {layers!r}") from None
    return file.of_layers(wanted)


def _numbers(file: VectorFile) -> str:
    return ", ".join(map(str, file.layers))
