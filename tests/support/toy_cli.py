"""The ``steersweep`` command with the job of the tests: ``python -m tests.support.toy_cli``."""

from jobs import cli
from jobs.sweeps.registry import registered
from tests.support.toy_job import LettersJob

if __name__ == "__main__":
    with registered(LettersJob()):
        cli.main()
