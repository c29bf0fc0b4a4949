"""``steersweep plan``: what a sweep would run, or what is left of it; runs and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.scoring.batch_size import read_tuning, tuning_key
from jobs.scoring.forecast.devices import DEFAULT_SHARE, Device, device_of
from jobs.scoring.forecast.measure import Measured, measure
from jobs.scoring.forecast.rates import rates_on
from jobs.scoring.forecast.show import ModelTime, SweepForecast
from jobs.scoring.forecast.sweep import ModelForecast, forecast_model
from jobs.scoring.inventory import Inventory
from jobs.scoring.plan import PlannedTask
from jobs.scoring.spec import ScoredSpec
from jobs.scoring.sweep import AnySweep
from jobs.sweeps.estimate import PlanOptions
from jobs.sweeps.executor import gpus_of
from jobs.sweeps.here import check_gpus_are_here, num_replicas, why_not_here
from jobs.sweeps.job import Files
from jobs.sweeps.same_sweep import check_same_sweep
from steering_core.buckets import Buckets
from steering_core.skeleton import Skeleton, read_skeleton
from steering_core.work import Batching
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.scoring.job import AnyScoredJob

_ASSUMED_TOKENS = {"cpu": 1024}
_ASSUMED_TOKENS_ACCELERATOR = 16_384


def plan(job: AnyScoredJob, spec: ScoredSpec, options: PlanOptions) -> SweepForecast:
    """What the sweep has left to do.

    Reads the data, tokenizers, configs and the output, and on this machine measures each model for
    a few seconds if its weights are here. Starts no Ray.

    Raises:
        UserError: what ``steersweep run`` would refuse, too.
    """
    device = None if options.device is None else device_of(options.device)
    storage = spec.storage_spec().open()
    storage.check_reachable()
    output = job.output_type.read(storage)
    sweep = job.resolve(spec, None if device is None else device.kind, output)
    if device is None:
        check_gpus_are_here(spec.compute)
    else:
        for model in sweep.models.values():
            device.peak_flops_per_s(model.dtype)
    check_same_sweep(job, sweep, output)
    workflow = job.workflow(sweep, output, Files(storage))
    return Planner(sweep, workflow.inventory, storage, device, options).forecast()


class Planner:
    """Plans each model of one sweep in turn.

    Args:
        device: with stated rates; None: this machine.
    """

    def __init__(
        self,
        sweep: AnySweep,
        inventory: Inventory,
        storage: Storage,
        device: Device | None,
        options: PlanOptions,
    ) -> None:
        self._sweep, self._inventory, self._storage = sweep, inventory, storage
        self._device, self._options = device, options
        self._left = [t for t in inventory.planned if t.plan_id not in inventory.done]
        compute = sweep.spec.compute
        given = None if compute.replicas == "auto" else compute.replicas
        self._num_replicas_asked = options.replicas or given
        room = options.replicas or num_replicas(compute, sweep.device, is_here=device is None)
        # Steered tasks wait for the vectors of their group, which phase 1 leaves.
        num_steered = sum(task.is_steered for task in self._left)
        num_at_once = max(num_steered, len(self._left) - num_steered, 1)
        self._num_replicas = max(1, min(room, num_at_once))

    def forecast(self) -> SweepForecast:
        """What is left of the sweep."""
        models, times = [], {}
        for name in self._sweep.models:
            left = [task for task in self._left if task.group.model == name]
            if left:
                model, times[name] = self._model(name, left)
                models.append(model)
        record = Ledger(self._storage).read_record() or {}
        return SweepForecast(
            output=self._storage.uri,
            inventory=self._inventory,
            models=models,
            times=times,
            device_kind=self._sweep.device,
            device=self._device,
            share=self._options.share or DEFAULT_SHARE,
            num_replicas=self._num_replicas,
            num_replicas_asked=self._num_replicas_asked,
            on_ray=self._sweep.spec.compute.executor == "ray",
            gpus_per_replica=gpus_of(self._sweep.spec.compute, self._sweep.device) or 1.0,
            sessions=record.get("sessions", []),
        )

    def _model(self, name: str, left: Sequence[PlannedTask]) -> tuple[ModelForecast, ModelTime]:
        model = self._sweep.models[name]
        skeleton = read_skeleton(model.source)
        given, tokens_from = self._tokens_per_batch(name, left)
        measured, reason = self._measured(name, skeleton, left, given)
        if measured is not None:
            batching = measured.batching
            tokens_from = tokens_from if given else "(measured)"
        else:
            assumed = _ASSUMED_TOKENS.get(self._sweep.device, _ASSUMED_TOKENS_ACCELERATOR)
            batching = Batching(
                tokens_per_batch=given or assumed,
                reuses_prefix=self._sweep.protocol.leaves_prefix_alone,
                buckets=Buckets() if self._sweep.device == "xla" else None,
            )
        found = forecast_model(
            self._sweep,
            self._inventory,
            name,
            skeleton,
            batching,
            self._sweep.device,
            self._num_replicas,
        )
        rates = None if measured is None else measured.rates
        if self._device is not None:
            share = self._options.share or DEFAULT_SHARE
            rates = rates_on(self._device, share, skeleton, model.dtype, found.total)
        return found, ModelTime(rates, reason, measured, tokens_from)

    def _tokens_per_batch(self, name: str, left: Sequence[PlannedTask]) -> tuple[int | None, str]:
        """The size of batches where it is decided, and how it is known."""
        given = left[0].tokens_per_batch
        if given is not None:
            return given, "(given)"
        stored = read_tuning(self._storage, tuning_key(name))
        tokens = None if stored is None else stored.tokens_per_batch
        return (None, "(assumed)") if tokens is None else (tokens, "(stored)")

    def _measured(
        self, name: str, skeleton: Skeleton, left: Sequence[PlannedTask], tokens: int | None
    ) -> tuple[Measured | None, str]:
        """A measurement, or None, and where the rates come from in words."""
        if self._device is not None:
            return None, f"stated rates of {self._device.name}"
        model = self._sweep.models[name]
        if self._options.seconds == 0:
            return None, "not measured (--seconds 0)"
        why = why_not_here(model.source, model.dtype, skeleton, self._sweep.device)
        if why is not None:
            return None, f"not measured: {why}"
        ids = {i for task in left if task.group.key for i in task.example_ids}
        own = [e for found, _ in self._sweep.groups.values() for e in found]
        # If only other data is left, rows of the sweep's own data show how fast the machine is.
        examples = [e for e in own if e.example_id in ids] or own
        if not own:
            subject = self._sweep.subject(left[0].tables[0], left[0].group)
            model, examples = subject.model, list(subject.examples.values())
        try:
            measured = measure(
                self._sweep, model, skeleton, examples, tokens, self._options.seconds
            )
        except UserError as error:
            return None, f"not measured: {error}"
        return measured, (
            f"measured on {measured.num_rows:,} rows x {measured.num_cells:,} cells in "
            f"{measured.took_s:.0f} s, one replica at a time"
        )
