"""What a user runs: the command line, the sweep file, the jobs, and what is made of results."""

__version__ = "0.1.0"
