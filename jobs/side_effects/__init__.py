"""What else steering moved: the same vectors measured on other data.

A sweep's key ``side_effects`` names data sets that are scored under its vectors. This package reads
those rows, puts every change into one matrix, and says which cells reach an effect with the least
side effects. Planning and scoring them is part of ``jobs.scoring``.
"""
