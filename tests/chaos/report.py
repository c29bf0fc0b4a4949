"""What the trials came to, as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.result import Result


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Counts over all trials, and by fault."""
    recovery: dict[str, list[float]] = {}
    faults: Counter[str] = Counter()
    s3_faults: Counter[str] = Counter()
    jobs = Counter(result.trial.worker for result in results)
    for result in results:
        faults += result.faults_done
        s3_faults += result.s3_faults
        for kind, seconds in result.recovery_s.items():
            recovery.setdefault(kind, []).extend(seconds)
    return {
        "trials": len(results),
        "equal": sum(r.equal for r in results),
        "lost": sum(r.num_lost for r in results),
        "doubled": sum(r.num_doubled for r in results),
        "partial": sum(r.num_partial for r in results),
        "hangs": sum(r.num_hangs for r in results),
        "done again": sum(r.num_done_again for r in results),
        "second attempts": sum(r.num_second_attempts for r in results),
        "most that may be": sum(r.most_done_again for r in results),
        "paid for": sum(r.num_paid for r in results),
        "paid for again": sum(r.num_paid_again for r in results),
        "most paid again": sum(r.most_paid_again for r in results),
        "trials by job": ", ".join(f"{job} {num}" for job, num in sorted(jobs.items())),
        "runs": sum(r.num_sessions for r in results),
        "seconds": round(sum(r.seconds for r in results), 1),
        "faults": {
            kind: {
                "done": faults[kind],
                "recovered": len(recovery.get(kind, [])),
                "median_s": _rounded(recovery.get(kind), statistics.median),
                "most_s": _rounded(recovery.get(kind), max),
            }
            for kind in sorted(faults)
        },
        "s3_requests_broken": dict(sorted(s3_faults.items())),
        "not_good": [r.trial.number for r in results if not r.is_good],
    }


def _rounded(values: list[float] | None, of: Any) -> float | None:
    return round(of(values), 2) if values else None


def table(results: Sequence[Result]) -> str:
    """The summary as text, with a line for each trial that is not good."""
    found = summary(results)
    lines = [f"{key:>24}  {value}" for key, value in found.items() if not isinstance(value, dict)]
    lines += ["", f"{'fault':>24}  {'done':>5} {'recovered':>9} {'median s':>8} {'most s':>7}"]
    for kind, of_kind in found["faults"].items():
        counts = f"{of_kind['done']:>5} {of_kind['recovered']:>9}"
        seconds = f"{of_kind['median_s'] or '-':>8} {of_kind['most_s'] or '-':>7}"
        lines.append(f"{kind:>24}  {counts} {seconds}")
    broken = ", ".join(f"{kind} {n}" for kind, n in found["s3_requests_broken"].items())
    lines += ["", f"requests to S3 that were broken: {broken or 'none'}"]
    for result in results:
        if not result.is_good:
            lines.append(f"trial {result.trial.number}: {'; '.join(result.problems) or 'differs'}")
    return "\n".join(lines)


def write_json(path: Path, seed: int, results: Sequence[Result], disk: str) -> None:
    """Everything: the summary, and each trial with its faults, from which it can be run again."""
    trials = [
        {
            **r.trial.as_json(),
            "good": r.is_good,
            "equal": r.equal,
            "lost": r.num_lost,
            "doubled": r.num_doubled,
            "partial": r.num_partial,
            "hangs": r.num_hangs,
            "done_again": r.num_done_again,
            "second_attempts": r.num_second_attempts,
            "most_done_again": r.most_done_again,
            "paid_for": r.num_paid,
            "paid_for_again": r.num_paid_again,
            "most_paid_for_again": r.most_paid_again,
            "runs": r.num_sessions,
            "seconds": round(r.seconds, 2),
            "recovery_s": r.recovery_s,
            "faults_done": r.faults_done,
            "s3_faults": r.s3_faults,
            "problems": r.problems,
        }
        for r in results
    ]
    content = {"seed": seed, "disk": disk, "summary": summary(results), "trials": trials}
    path.write_text(json.dumps(content, indent=1))
