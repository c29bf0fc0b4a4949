"""``report.html`` of a persona sweep: one file that fetches nothing."""
