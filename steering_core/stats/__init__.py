"""How sure an estimate is, if examples come in clusters that move together.

``clusters`` has the estimates and their intervals, ``discrete`` what rare choices need in addition,
``flips`` the tests. ``docs/statistics.md`` explains each number to a reader of a report.
"""
