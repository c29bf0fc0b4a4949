"""Which parts an output holds: listed once, each checked before anything follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.checked import CheckedPart, check_listed, read_checked
from cluster.errors import CorruptPartError
from cluster.storage import Storage, StoredObject
from cluster.tasks import Task
from steersweep.errors import UserError


@dataclass(frozen=True)
class PartRef:
    """A part in storage, and the task that it must belong to."""

    key: str
    task_id: str


class StoredParts:
    """The parts of an output as they were listed when it was opened.

    Attributes:
        checked: every part that was asked for and found whole, by its key.
    """

    def __init__(
        self, storage: Storage, prefixes: Sequence[str], *, reads_rows: bool = False
    ) -> None:
        """List what is there.

        Args:
            prefixes: folders that hold parts.
            reads_rows: hold every row against the part's digest when a part is first seen, and not
                its footer alone. For jobs whose parts are small.
        """
        self._storage, self._reads_rows = storage, reads_rows
        self._listed: dict[str, StoredObject] = {
            entry.key: entry for prefix in prefixes for entry in storage.list(prefix)
        }
        self._known: Mapping[str, CheckedPart] | None = None
        self.checked: dict[str, CheckedPart] = {}

    def done(self, tasks: Sequence[Task]) -> set[str]:
        """The ids of the tasks whose parts are all there.

        Raises:
            UserError: one of these parts is damaged.
        """
        return self.done_of({task.id: task.parts.values() for task in tasks})

    def done_of(self, keys_by_task: Mapping[str, Iterable[str]]) -> set[str]:
        """The same for the keys of parts by task id."""
        found = {task_id: list(keys) for task_id, keys in keys_by_task.items()}
        found = {t: keys for t, keys in found.items() if all(key in self._listed for key in keys)}
        self._check({key: task_id for task_id, keys in found.items() for key in keys})
        return set(found)

    def check_all(self) -> None:
        """Check every part now, many at a time; for jobs whose parts are named after their tasks.

        Damaged ones come up when a task asks for them: parts that belong to no task do no harm.
        """
        named = {
            key: key.rpartition("/")[2].removesuffix(".parquet")
            for key in self._listed
            if key.endswith(".parquet")
        }
        self.checked |= self._checked(named)[0]

    def _check(self, task_ids: Mapping[str, str]) -> None:
        new = {
            key: task_id
            for key, task_id in task_ids.items()
            if key not in self.checked or self.checked[key].task_id != task_id
        }
        if not new:
            return
        good, bad = self._checked(new)
        self.checked |= good
        if bad:
            raise damaged(bad)

    def _checked(
        self, task_ids: Mapping[str, str]
    ) -> tuple[dict[str, CheckedPart], dict[str, CorruptPartError]]:
        if self._known is None:
            self._known = read_checked(self._storage)
        return check_listed(
            self._storage, task_ids, self._listed, self._known, reads_rows=self._reads_rows
        )


def damaged(bad: Mapping[str, CorruptPartError]) -> UserError:
    """The error for damaged parts: the first one, and how many more there are."""
    first = next(iter(bad.values()))
    more = f" ({len(bad) - 1} more parts are damaged)" if len(bad) > 1 else ""
    return UserError(f"{first}{more}")
