"""``report.html``: a run for a reader who did not run it, in one file that fetches nothing."""
