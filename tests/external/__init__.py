"""Comparisons with other software, which each command installs in an environment of its own."""
