"""``steersweep submit``: a sweep as a job of a Ray cluster."""
