"""Compare our scores with lm-evaluation-harness: python -m tests.external.lm_eval [--rows N]

Both programs score the same rows of CrowS-Pairs and MMLU with SmolLM2-135M-Instruct in float32 on
the CPU. Rows that the two tokenize differently are excluded and counted. On all others, the
log-likelihood of each candidate must agree to 1e-4 nats, and each row's metrics must be equal.

The harness computes its softmax in float64 here, which is one of its options. By default it calls
torch's log_softmax in float32. On the CPU, in 12 sentences of CrowS-Pairs, its log-likelihoods were
4e-6 to 1.1e-5 nats a token above those of a model in float64. That adds up to more than 1e-4 in 19
of the first 30 pairs, which `--softmax-dtype float32` reports as a disagreement.

Exit code: 0 if they agree, or if the data is missing; 1 if they disagree; 2 if the comparison
cannot run. The harness is installed once, in an environment outside the repository.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from steersweep.errors import UserError
from tests.external.lm_eval.comparison import Comparison, compare
from tests.external.lm_eval.environment import default_folder, ready_environment, versions
from tests.external.lm_eval.ours import MODEL, OurSide
from tests.external.lm_eval.tasks import CROWS_PAIRS, MMLU, SharedTask, shared_tasks
from tests.external.lm_eval.theirs import their_rows

OURS = ("steersweep", "torch", "transformers", "tokenizers")
DATA = Path(__file__).parents[3].parent / "shared" / "data"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.external.lm_eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=100, help="of each data set (default: 100)")
    parser.add_argument("--data", type=Path, default=DATA, help="default: ../shared/data")
    parser.add_argument(
        "--env",
        type=Path,
        default=default_folder(),
        help="folder of the harness's environment, made if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--softmax-dtype",
        choices=("float64", "float32"),
        default="float64",
        help="of the harness (default: float64; its own default: float32)",
    )
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    missing = [file for file in (CROWS_PAIRS, MMLU) if not (options.data / file).is_file()]
    if missing:
        print(f"skipped: {options.data} has no {' and no '.join(map(str, missing))}")
        return 0
    try:
        tasks = shared_tasks(options.data, options.rows)
        return run(options.env, tasks, options.softmax_dtype)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def run(env: Path, tasks: Sequence[SharedTask], softmax_dtype: str) -> int:
    """Score the tasks with both programs and print how they compare."""
    python = ready_environment(env.absolute())
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lm-eval-") as folder:
        work = Path(folder)
        side = OurSide()
        ours = {task.name: side.rows(task) for task in tasks}
        side.save(work / "model")
        del side  # the harness holds the model now
        theirs = their_rows(python, work / "model", tasks, work, softmax_dtype)
    comparisons = [compare(t.name, ours[t.name], theirs[t.name]) for t in tasks]
    print(f"{MODEL}, float32 on the CPU; {time.monotonic() - started:.0f} s")
    print(f"ours:   {named({name: version(name) for name in OURS})}")
    print(f"theirs: {named(versions(python))}; softmax in {softmax_dtype}\n")
    print(table(comparisons))
    problems = [problem for comparison in comparisons for problem in comparison.problems]
    print("\n" + ("\n".join(problems) or "the programs agree"))
    return 1 if problems else 0


def named(installed: dict[str, str]) -> str:
    """Versions on one line."""
    return ", ".join(f"{name} {number}" for name, number in installed.items())


def table(comparisons: Sequence[Comparison]) -> str:
    """Rows and log-likelihoods of each task, then its metrics."""
    lines = [
        f"{'task':<21}{'rows':>5}{'compared':>10}{'candidates':>12}  {'largest gap':<15}excluded"
    ]
    for c in comparisons:
        excluded = ", ".join(f"{n} ({reason})" for reason, n in c.excluded.items()) or "0"
        gap = f"{c.largest:.1e} nats"
        counts = f"{c.num_rows:>5}{c.num_compared:>10}{c.num_candidates:>12}"
        lines.append(f"{c.task:<21}{counts}  {gap:<15}{excluded}")
    lines += ["", f"{'task':<21}{'metric':<17}{'ours':>10}{'lm_eval':>10}  rows that differ"]
    lines += [
        f"{c.task:<21}{name:<17}{m.ours:>10.5f}{m.theirs:>10.5f}  {len(m.differing)}"
        for c in comparisons
        for name, m in c.metrics.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
