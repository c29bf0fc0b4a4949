"""Runs one trial: break it, run it again until it is done, compare every row."""

from __future__ import annotations

from tests.chaos.machines import RayMachines, World, wait_for_end
from tests.chaos.plan import Trial
from tests.chaos.result import Result, Rows, read_rows
from tests.chaos.sessions import Sessions


class Runner:
    """Runs trials in a world; keeps the rows of the undisturbed runs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._undisturbed: dict[str, Rows] = {}

    def run(self, trial: Trial) -> Result:
        machines = self._world.machines(trial.shape)
        wanted = self._rows_undisturbed(trial.worker, machines)
        uri = self._world.fresh_output(trial.storage)
        run = Sessions(self._world, machines, trial, uri)
        try:
            result = run.until_done()
            found = read_rows(self._world, uri, result)
            self._wait_for_replicas(run, result)
        finally:
            self._world.disk.empty()
            self._world.remove_output(uri)
        result.num_lost = len(wanted.keys() - found.keys())
        result.num_doubled = len(found.keys() - wanted.keys())
        result.equal = found == wanted
        if result.num_done_again > result.most_done_again:
            result.problems.append(
                f"{result.num_done_again} tasks were done again, where {result.most_done_again} "
                "were in flight at the faults or begun a second time"
            )
        return result

    def _rows_undisturbed(self, worker: str, machines: RayMachines) -> Rows:
        if worker not in self._undisturbed:
            calm = Trial(0, -1, "local", machines.shape, worker, 0.0, ())
            uri = self._world.fresh_output("local")
            result = Sessions(self._world, machines, calm, uri).until_done()
            rows = read_rows(self._world, uri, result)
            assert result.num_sessions == 1, result.problems
            assert rows, "the undisturbed run left nothing"
            # On a slow machine an idle replica may run a slow task a second time; nothing else may.
            assert result.num_done_again <= result.most_done_again == result.num_second_attempts
            assert not (result.num_partial or result.num_paid_again), result
            assert bool(result.num_paid) == (worker == "persona"), result
            self._undisturbed[worker] = rows
            self._world.remove_output(uri)
        return self._undisturbed[worker]

    def _wait_for_replicas(self, run: Sessions, result: Result) -> None:
        left = [pid for pid in run.replicas() if not wait_for_end(pid, 60.0)]
        if left:
            result.problems.append(f"replicas that did not end: {left}")
