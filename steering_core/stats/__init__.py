"""How sure an estimate is, if examples come in clusters that move together.

``clusters`` has the estimates and their intervals, ``smooth`` those that are functions of means,
``discrete`` what rare choices need in addition, ``flips`` the tests, ``ranks`` what holds for
several rows together. ``docs/statistics.md`` explains each number to a reader of a report.
"""
