"""What to do about errors of steering_core and cluster: which key, option or command.

Those packages know none of these: their errors say what is wrong, with the value and the limit, and
give it a name (``UserError.cause``). Here is what to do then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from steersweep.errors import UserError

ADVICE = {
    "no_system_role": "; set `system: merge_into_user` to put it before the user's text",
    "no_special_token": "; set `protocol: aligned`, which needs neither",
    "not_as_published": "; set `scoring: aligned`",
    "no_convergence": "; use another vectors.method",
    "too_little_variance": ", or another vectors.method",
    "single_target_term": (
        "; use more examples (data.limit), leave the group out, or set vectors.folds to 1"
    ),
    "gguf_as_path": "; set path: {folder}, gguf_file: {file}",
    "gguf_not_named": "; to load it, set gguf_file: {file}",
    "unknown_commit": ", or set `revision` to a commit",
    "too_few_gpus_for_model": " (compute.gpus_per_replica, and dtype of the model)",
    "too_small_gpu_share": "; give it more (compute.gpus_per_replica)",
    "no_stereoset_file": "; `steersweep data fetch` downloads StereoSet's dev.json",
    "damaged_stereoset_file": (
        "; if the download was truncated, `steersweep data fetch` gets it again"
    ),
    "too_many_replicas": " (compute.replicas)",
    "too_few_cpus": " (compute.cpus_per_replica)",
    "too_few_gpus": " (compute.gpus_per_replica)",
    "too_little_of_resource": " (compute.resources.{name})",
    "no_such_accelerator": " (compute.accelerator_type)",
    "no_such_label": " (compute.labels)",
    "ray_without_labels": ", or use compute.resources instead of compute.labels",
    "ray_does_not_start": ", or set compute.executor to in_process",
    "another_driver": "; see `steersweep status`, then run the same command again",
    "needs_with_value": " (--needs)",
    "no_setting": " (--env)",
    "secret_setting": ", and have it checked with --needs {name} instead of --env",
    "wrong_address": " (--address)",
}
"""By cause, how the message goes on; in braces, a fact of the error."""


def advise(error: UserError) -> None:
    """Add what to do to the message, once, if the error or what it was raised from has a cause."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UserError) and link.cause:
            # One that a job of another package raises may be unknown here.
            error.add_to_message(ADVICE.get(link.cause, "").format(**link.facts))
            link.cause = ""
            return
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


@contextmanager
def advised() -> Iterator[None]:
    """Let errors that leave the context, or a function that it decorates, say what to do."""
    try:
        yield
    except UserError as error:
        advise(error)
        raise
