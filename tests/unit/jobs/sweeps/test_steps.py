"""What follows from what, and when: steps over made-up tasks, without storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from cluster.tasks import Task
from jobs.sweeps.parts import StoredParts
from jobs.sweeps.steps import Count, Follow, Stage, Step, Steps, by_stage

WRITING = Stage("writing", "answers", "written")
JUDGING = Stage("judging", "answers", "judged")


class Stored:
    """Stands in for the parts of an output: these tasks are done."""

    def __init__(self, done: Iterable[str]) -> None:
        self._done = set(done)

    def done(self, tasks: Sequence[Task]) -> set[str]:
        return {task.id for task in tasks} & self._done


def steps_of(*done: str) -> Steps:
    return Steps(cast(StoredParts, Stored(done)))


def tasks(*names: str, num_items: int = 2) -> list[Task]:
    return [Task(name, "p", 1.0, {"rows": name}, None, num_items=num_items) for name in names]


def step(
    *names: str,
    each: Callable[[Task], Follow] | None = None,
    then: Callable[[], Follow] | None = None,
    stage: Stage = WRITING,
    group: str = "g",
) -> Step:
    return Step(stage, group, tasks(*names), each, then)


def names(found: Iterable[Task]) -> list[str]:
    return [task.id for task in found]


class Run:
    """Steps, and the tasks that they have handed out."""

    def __init__(self, steps: Steps, *first: Step) -> None:
        self.steps = steps
        self.open = {task.id: task for task in steps.begin(first)}

    def finish(self, name: str) -> list[str]:
        found = self.steps.finished(self.open.pop(name))
        self.open |= {task.id: task for task in found}
        return names(found)


def test_tasks_come_in_the_order_of_the_steps() -> None:
    run = Run(steps_of(), step("a", "b"), step("c"), step("d"))
    assert [*run.open] == ["a", "b", "c", "d"]
    for name in "dbca":
        assert run.finish(name) == []
    assert not run.open


def test_each_follows_at_once_and_then_after_the_last_task() -> None:
    first = step(
        "a",
        "b",
        each=lambda task: [step(f"{task.id}.judged")],
        then=lambda: [step("vectors")],
    )
    run = Run(steps_of(), first)
    assert run.finish("b") == ["b.judged"]
    assert run.finish("a") == ["a.judged"]
    assert run.finish("b.judged") == []
    assert run.finish("a.judged") == ["vectors"], "what `each` led to is part of the step"
    assert run.finish("vectors") == []
    assert not run.open


def test_then_waits_for_tasks_although_all_that_followed_so_far_is_done() -> None:
    first = step("a", "b", each=lambda task: [step(f"{task.id}+")], then=lambda: [step("end")])
    run = Run(steps_of(), first)
    run.finish("a")
    assert run.finish("a+") == []
    assert run.finish("b") == ["b+"]
    assert run.finish("b+") == ["end"]


def test_a_step_waits_for_what_follows_from_its_children_however_deep() -> None:
    def child(task: Task) -> Follow:
        return [step(f"{task.id}1", then=lambda: [step(f"{task.id}2", each=grandchild)])]

    def grandchild(task: Task) -> Follow:
        return [step(f"{task.id}x")]

    run = Run(steps_of(), step("a", "b", each=child, then=lambda: [step("end")]))
    assert run.finish("a") == ["a1"]
    assert run.finish("a1") == ["a2"]
    assert run.finish("b") == ["b1"]
    assert run.finish("b1") == ["b2"]
    assert run.finish("b2") == ["b2x"]
    assert run.finish("b2x") == []
    assert run.finish("a2") == ["a2x"]
    assert run.finish("a2x") == ["end"]


def test_then_is_called_once_and_only_then() -> None:
    calls: list[str] = []

    def then() -> Follow:
        calls.append("then")
        return [step("x"), step("y")]

    run = Run(steps_of(), step("a", "b", each=lambda _: [step(), step()], then=then))
    run.finish("a")
    assert calls == []
    assert run.finish("b") == ["x", "y"]
    run.finish("x")
    run.finish("y")
    assert calls == ["then"]


def test_a_step_without_tasks_is_over_at_once_and_leads_on() -> None:
    run = Run(steps_of(), step(then=lambda: [step(then=lambda: [step("a")]), step("b")]))
    assert [*run.open] == ["a", "b"]
    assert not Run(steps_of(), step()).open


def test_children_that_are_over_at_once_do_not_end_their_parent_before_the_next_child() -> None:
    calls: list[str] = []

    def then() -> Follow:
        calls.append("then")
        return ()

    def each(_: Task) -> Follow:
        yield step()
        assert calls == []
        yield step("late")

    run = Run(steps_of(), step("a", each=each, then=then))
    assert run.finish("a") == ["late"]
    assert calls == []
    run.finish("late")
    assert calls == ["then"]


def test_the_steps_that_follow_are_asked_for_only_when_they_can_be_known() -> None:
    asked: list[str] = []

    def each(task: Task) -> Follow:
        asked.append(task.id)
        return ()

    run = Run(steps_of(), step("a", "b", each=each))
    assert asked == []
    run.finish("b")
    assert asked == ["b"]


def test_a_resumed_run_passes_over_what_is_done_and_finds_what_follows_from_it() -> None:
    def first() -> Step:
        return step(
            "a",
            "b",
            each=lambda task: [step(f"{task.id}.judged", stage=JUDGING)],
            then=lambda: [step("vectors")],
        )

    run = Run(steps_of("a", "b.judged"), first())
    assert [*run.open] == ["b", "a.judged"]
    assert run.finish("a.judged") == []
    assert run.finish("b") == ["vectors"], "its judging is done already"
    everything = steps_of("a", "b", "a.judged", "b.judged", "vectors")
    assert names(everything.begin([first()])) == []
    assert names(steps_of("a", "b", "a.judged", "b.judged").begin([first()])) == ["vectors"]


def test_counts_are_of_items_by_stage_and_group_and_know_earlier_sessions() -> None:
    def judging(task: Task) -> Follow:
        return [step(f"{task.id}.judged", stage=JUDGING, group="other")]

    steps = steps_of("a", "a.judged")
    run = Run(steps, step("a", "b", each=judging), step("c", group="third"))
    assert [*steps.counts] == [(WRITING, "g"), (JUDGING, "other"), (WRITING, "third")]
    assert steps.counts[WRITING, "g"] == Count(
        known=4, done=2, done_before=2, tasks_known=2, tasks_done=1
    )
    assert steps.counts[JUDGING, "other"] == Count(2, 2, 2, 1, 1)
    run.finish("b")
    assert steps.counts[WRITING, "g"] == Count(4, 4, 2, 2, 2)
    assert steps.counts[JUDGING, "other"] == Count(4, 2, 2, 2, 1)
    assert steps.counts[WRITING, "third"] == Count(2, 0, 0, 1, 0)
    assert by_stage(steps.counts) == {WRITING: Count(6, 4, 2, 3, 2), JUDGING: Count(4, 2, 2, 2, 1)}


def test_the_step_of_a_task_is_known_until_it_is_done() -> None:
    run = Run(steps_of(), step("a", each=lambda _: [step("b", stage=JUDGING)]))
    assert run.steps.step_of(run.open["a"]).stage == WRITING
    run.finish("a")
    assert run.steps.step_of(run.open["b"]).stage == JUDGING


def test_a_failed_task_keeps_what_follows_from_its_step_from_being_asked_for() -> None:
    """It is set aside: nobody calls ``finished``, and the run ends with what is left."""
    run = Run(steps_of(), step("a", "failed", then=lambda: [step("vectors")]), step("c"))
    assert run.finish("a") == []
    assert run.finish("c") == []
    assert [*run.open] == ["failed"]
