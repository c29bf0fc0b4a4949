"""What every job shares: the job interface, the run loop, resuming, progress, workers, estimates.

Read ``job.py`` first: it says what a job has to provide. ``runner.py`` runs any job,
``registry.py`` knows them by name.
"""
