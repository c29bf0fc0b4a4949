"""Figures drawn by several processes: the same files, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from threading import Timer

import pytest
from matplotlib.figure import Figure

from cluster.storage import StorageSpec
from jobs import cores
from jobs.figures.page import Layout, page
from jobs.figures.pool import drawn, num_processes
from jobs.figures.write import write_figures
from jobs.stereoset.figures.make import figure_names, planned_figures
from tests.support.summaries import cells_frame, pooled_frame, vectors_frame_of

pytestmark = pytest.mark.slow

CELLS = cells_frame(models=["m"])


def titled(title: str) -> Figure:
    return page((1, 1), Layout(width=2.0, height=1.0), title)[0]


def failing(title: str) -> Figure:
    raise ValueError(f"no {title}")


def dying(_: str) -> Figure:
    os._exit(7)


def sleeping(path: str) -> Figure:
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)
    raise AssertionError("nobody ended it")


def children() -> set[int]:
    of_this = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(child) for child in of_this.split()}


def test_several_processes_make_the_same_files_as_one(tmp_path: Path) -> None:
    vectors = vectors_frame_of({("m", "s", "race", n, None): [1.0, n] for n in (1, 2)})
    planned = planned_figures(CELLS, pooled_frame(CELLS), vectors)
    names = ("bars-inter-coeff=20", "flows-inter-coeff=20", "heat-map-m-inter", "vectors-layers-m")
    planned = {name: planned[name] for name in names}
    before = children()
    made = []
    for processes in (1, 2):
        storage = StorageSpec(str(tmp_path / str(processes))).open()
        write_figures(storage, planned, figure_names(), processes)
        made.append({entry.key: storage.read(entry.key) for entry in storage.list("figures/")})
    assert len(made[0]) == 2 * len(planned)
    assert made[0] == made[1]
    assert children() == before


def test_an_error_of_a_figure_is_raised_with_its_place_and_ends_the_others() -> None:
    before = children()
    drawings = {"good": partial(titled, "good"), "bad": partial(failing, "luck")}
    with pytest.raises(ValueError, match="no luck") as raised, drawn(drawings, 2) as finished:
        list(finished)
    assert "while drawing the figure bad" in raised.value.__notes__[0]
    assert "in failing" in raised.value.__notes__[0]
    assert children() == before


def test_a_process_that_ends_by_itself_is_named() -> None:
    drawings = {"good": partial(titled, "good"), "bad": partial(dying, "")}
    with pytest.raises(RuntimeError, match="figure bad ended with 7"), drawn(drawings, 2) as found:
        list(found)


def test_ctrl_c_ends_the_processes_at_once(tmp_path: Path) -> None:
    before = children()
    paths = [tmp_path / name for name in ("one", "two")]
    drawings = {path.name: partial(sleeping, str(path)) for path in paths}

    def interrupt_when_both_draw() -> None:
        while not all(path.exists() for path in paths):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    Timer(0.0, interrupt_when_both_draw).start()
    with pytest.raises(KeyboardInterrupt), drawn(drawings, 2) as finished:
        list(finished)
    assert children() == before
    for path in paths:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    """What ``multiprocessing`` would do in each process that it spawns."""
    script = tmp_path / "script.py"
    script.write_text(
        "from functools import partial\n"
        "from jobs.figures.pool import drawn\n"
        "from tests.unit.jobs.test_figure_pool import titled\n"
        "print('script')\n"
        "with drawn({name: partial(titled, name) for name in 'abcd'}, 2) as finished:\n"
        "    print(*sorted(name for name, _ in finished))\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["script", "a", "b", "c", "d"]


def test_few_figures_are_drawn_by_the_process_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(16))
    assert [num_processes(num) for num in (0, 1, 7, 8, 20, 999)] == [1, 1, 1, 2, 5, 16]
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {0})
    assert num_processes(999) == 1
