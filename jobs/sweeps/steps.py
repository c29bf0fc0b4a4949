"""What a sweep does, in which order: steps that follow from each other, and how far they have come.

A *step* is a set of tasks that can run side by side. What follows from a step is known only once
its results are there: vectors are fitted from the states that one step leaves, and the ids of the
steered tasks cover these vectors. So a step says what follows by a function, which is called when
its tasks are done. The same functions lead a new run, a resumed one and a plan: tasks whose parts
are in storage are done already, and what follows from them follows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.tasks import Task
from jobs.sweeps.parts import StoredParts


@dataclass(frozen=True)
class Stage:
    """A kind of work, in the words of its progress: ``scoring 8 of 2,520 rows``.

    Attributes:
        verb, noun: what happens to what: ``scoring`` and ``rows``.
        participle: for the last line, if the noun alone does not say it: ``written``.
    """

    verb: str
    noun: str
    participle: str = ""

    def __str__(self) -> str:
        """What a list of failed tasks calls it."""
        return f"{self.verb} {self.noun}"


Follow = Iterable["Step"]


@dataclass(frozen=True)
class Step:
    """Tasks that run side by side, and what follows from them.

    Both functions may read storage and take their time: they are called in a thread of the driver,
    never at the same time as another one of the same run.

    Attributes:
        group: what the tasks are about, for messages: ``base/intersentence/gender``.
        each: what follows from one task that is done, such as judging its answers.
        then: what follows once all tasks are done, and all that ``each`` led to.
    """

    stage: Stage
    group: str
    tasks: Sequence[Task]
    each: Callable[[Task], Follow] | None = None
    then: Callable[[], Follow] | None = None


@dataclass
class _Open:
    """A step that is not over: what it still waits for, and who waits for it."""

    step: Step
    parent: _Open | None
    waits_for: set[str] = field(default_factory=set)
    num_children: int = 0


@dataclass
class Count:
    """How far a stage has come, in items: rows, answers.

    Attributes:
        known: items of all tasks that are known so far; more may follow.
        done_before: items that earlier sessions did.
    """

    known: int = 0
    done: int = 0
    done_before: int = 0
    tasks_known: int = 0
    tasks_done: int = 0

    def add(self, other: Count) -> None:
        """Count the items and tasks of another one as well."""
        self.known += other.known
        self.done += other.done
        self.done_before += other.done_before
        self.tasks_known += other.tasks_known
        self.tasks_done += other.tasks_done


def by_stage(counts: Mapping[tuple[Stage, str], Count]) -> dict[Stage, Count]:
    """The counts of each stage over all groups, in the order in which the stages came up."""
    totals: dict[Stage, Count] = {}
    for (stage, _), count in dict(counts).items():  # a copy: steps may open in another thread
        totals.setdefault(stage, Count()).add(count)
    return totals


class Steps:
    """The steps of one sweep in one output.

    Not safe for threads: whoever drives it calls ``begin`` first, and then ``finished`` from one
    thread.

    Attributes:
        counts: by stage and group, in the order in which they came up.
    """

    def __init__(self, stored: StoredParts) -> None:
        self._stored = stored
        self._waiting: dict[str, _Open] = {}
        self.counts: dict[tuple[Stage, str], Count] = {}

    def begin(self, steps: Iterable[Step]) -> list[Task]:
        """Tasks that can run now, after all that is done already was passed over."""
        return [task for step in steps for task in self._open(step, None)]

    def finished(self, task: Task) -> list[Task]:
        """Tasks that can run because this one is done."""
        opened = self._waiting.pop(task.id)
        self._count(opened.step, task, is_done=True)
        return list(self._after(opened, task))

    def step_of(self, task: Task) -> Step:
        """The step of a task that is not done."""
        return self._waiting[task.id].step

    def _open(self, step: Step, parent: _Open | None) -> Iterator[Task]:
        opened = _Open(step, parent)
        if parent is not None:
            parent.num_children += 1
        done = self._stored.done(step.tasks)
        for task in step.tasks:
            count = self.counts.setdefault((step.stage, step.group), Count())
            count.known += task.num_items
            count.tasks_known += 1
            if task.id in done:
                self._count(step, task, is_done=True, before=True)
                continue
            opened.waits_for.add(task.id)
            self._waiting[task.id] = opened
            yield task
        if step.each is not None:
            for task in step.tasks:
                if task.id in done:
                    yield from self._children(opened, step.each(task))
        yield from self._close_if_over(opened)

    def _after(self, opened: _Open, task: Task) -> Iterator[Task]:
        opened.waits_for.discard(task.id)
        if opened.step.each is not None:
            yield from self._children(opened, opened.step.each(task))
        yield from self._close_if_over(opened)

    def _children(self, opened: _Open, steps: Follow) -> Iterator[Task]:
        # Held open meanwhile: a child that is over at once must not end its parent before the next.
        opened.num_children += 1
        for step in steps:
            yield from self._open(step, opened)
        opened.num_children -= 1

    def _close_if_over(self, opened: _Open) -> Iterator[Task]:
        if opened.waits_for or opened.num_children:
            return
        if opened.step.then is not None:
            # What follows is a step of its own: the parent waits for it as well.
            for step in opened.step.then():
                yield from self._open(step, opened.parent)
        if opened.parent is not None:
            opened.parent.num_children -= 1
            yield from self._close_if_over(opened.parent)

    def _count(self, step: Step, task: Task, *, is_done: bool, before: bool = False) -> None:
        count = self.counts[step.stage, step.group]
        count.done += task.num_items * is_done
        count.tasks_done += is_done
        count.done_before += task.num_items * before
