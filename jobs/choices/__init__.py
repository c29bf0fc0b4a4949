"""``job: choices``: any multiple-choice data scored with and without steering."""
