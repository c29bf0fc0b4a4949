"""Multiple-choice data sets: what a record means, and what is measured of its scores.

One module is one data set (``crows_pairs``, ``bbq``, ...). It turns records, which somebody else
has read from a file, into ``ChoiceExample``s, and names its metrics, its usual contrast, its
licence and where to get it. ``registry`` lists them. To add one, write such a module and its test.
"""
