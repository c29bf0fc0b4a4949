"""One or several sweeps by one name: a spec file, an example, or a set of examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.storage import Storage
from jobs.console import say
from jobs.resources import SPEC_SETS
from jobs.spec import JobSpec
from jobs.sweeps import commands
from jobs.sweeps.registry import load_any_spec, storage_of
from jobs.sweeps.session import first_free
from steersweep.errors import UserError

INTERRUPTED = 130


def load_sweeps(
    source: str, overrides: Sequence[str] = (), output: str | None = None
) -> list[JobSpec]:
    """The sweeps that a name stands for, in the order in which they run.

    Args:
        source: a spec file, an example, or a set of examples such as ``demo``.
        overrides: ``key.path=value``; of a set, for each of its sweeps.
        output: replaces the spec's ``output``; of a set, the folder that gets one for each sweep.

    Raises:
        UserError: as ``load_any_spec``, or two sweeps with one output.
    """
    if not _is_set(source):
        return [load_any_spec(source, overrides, output)]
    sweeps = []
    for name in SPEC_SETS[source]:
        own_output = None if output is None else f"{output.rstrip('/')}/{_part(source, name)}"
        try:
            sweeps.append(load_any_spec(name, overrides, own_output))
        except UserError as error:
            raise UserError(*error.lines, _hint(source)) from None
    outputs = {sweep.output for sweep in sweeps}
    if len(outputs) < len(sweeps):
        raise UserError(
            f"the sweeps of {source} need an output each, but both would get {outputs.pop()}; use "
            "--output DIR, which gives each of them a folder in DIR"
        )
    return sweeps


def load_one_sweep(
    source: str, overrides: Sequence[str] = (), output: str | None = None, *, command: str
) -> JobSpec:
    """The sweep of a name, for a command or option that takes one.

    Raises:
        UserError: as ``load_any_spec``, or a set of examples.
    """
    if _is_set(source):
        raise UserError(f"{command} takes one sweep. {_hint(source)}")
    return load_any_spec(source, overrides, output)


def run_sweeps(
    source: str, overrides: Sequence[str], output: str | None, *, new: bool, figures: bool
) -> int:
    """Run the sweeps of a name one after the other; returns the highest exit code.

    A sweep with failed tasks does not keep the next one from running; an interrupt does.

    Args:
        new: write to outputs that are empty; of a set, in one new folder.

    Raises:
        UserError: the user must change something.
    """
    sweeps = load_sweeps(source, overrides, output)
    if len(sweeps) == 1:
        return commands.run(sweeps[0], new=new, figures=figures)
    names = SPEC_SETS[source]
    if new:
        sweeps = _in_new_folder(source, sweeps)
    code = 0
    for number, (name, sweep) in enumerate(zip(names, sweeps, strict=True), 1):
        if number > 1:
            say("")
        say(f"== {name}, sweep {number} of {len(names)} ==")
        code = max(code, commands.run(sweep, new=False, figures=figures))
        if code >= INTERRUPTED:
            break
    return code


def storages_of(source: str, endpoint_url: str | None) -> list[Storage]:
    """The outputs that a name stands for; see ``storage_of`` and ``load_sweeps``."""
    names = SPEC_SETS[source] if _is_set(source) else (source,)
    return [storage_of(name, endpoint_url) for name in names]


def _in_new_folder(source: str, sweeps: Sequence[JobSpec]) -> list[JobSpec]:
    folder = sweeps[0].output.rpartition("/")[0]
    free = first_free(sweeps[0].model_copy(update={"output": folder}).storage_spec()).uri
    parts = [_part(source, name) for name in SPEC_SETS[source]]
    return [
        sweep.model_copy(update={"output": f"{free}/{part}"})
        for part, sweep in zip(parts, sweeps, strict=True)
    ]


def _is_set(source: str) -> bool:
    return source in SPEC_SETS and not Path(source).is_file()


def _part(source: str, name: str) -> str:
    return name.removeprefix(f"{source}-")


def _hint(source: str) -> str:
    names = " and ".join(SPEC_SETS[source])
    return f"{source} is {len(SPEC_SETS[source])} sweeps, {names}; each can be named by itself"
