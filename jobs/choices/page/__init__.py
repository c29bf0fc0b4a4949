"""``report.html`` of a choices sweep."""
