"""``report.html``: a run for a reader who was not there, in one file that fetches nothing."""
