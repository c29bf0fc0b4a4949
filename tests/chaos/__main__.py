"""python -m tests.chaos --trials 200 --seed 1 [--only N] [--json FILE]"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tests.chaos.machines import world
from tests.chaos.plan import draw
from tests.chaos.report import table, write_json
from tests.chaos.trial import Runner


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the trial of this number alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave what drivers said")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    numbers = range(options.trials) if options.only is None else [options.only]
    # A cluster of another shape takes a while: each shape is made once.
    trials = sorted((draw(options.seed, n) for n in numbers), key=lambda t: (t.shape, t.number))
    results = []
    with world(keep=options.keep) as shared:
        runner = Runner(shared)
        for trial in trials:
            result = runner.run(trial)
            results.append(result)
            faults = ", ".join(f"{f.kind} +{f.after_s:.1f}" for f in trial.faults)
            verdict = "equal" if result.is_good else f"NOT GOOD {result.problems}"
            print(
                f"trial {trial.number}: {trial.worker} on {trial.storage}, {trial.shape}, s3 "
                f"{trial.s3_share:.0%}; {faults}: {verdict}, {result.num_sessions} runs, "
                f"{result.num_done_again} again of {result.most_done_again}, "
                f"{result.num_paid} paid for, "
                f"{result.num_paid_again} again of {result.most_paid_again}, "
                f"{result.seconds:.1f} s",
                flush=True,
            )
            if options.json:
                write_json(options.json, options.seed, results, shared.disk.describe())
    print(table(results))
    return 0 if all(result.is_good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
