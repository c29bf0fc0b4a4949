"""Estimates of scored choices: sums of a cell by cluster, and what follows from them.

Everything here works on arrays. Jobs read the rows and write the tables.
"""
