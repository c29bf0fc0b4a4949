"""``report.html`` of a persona sweep."""
