"""Figures of a sweep, each kind in a module of its own; ``make.py`` makes them all."""
