"""``bench gpu``: one unattended command for the first minutes on a GPU.

Five sections, most valuable first: ``environment``, ``right``, ``fast``, ``profile``, ``text``.
Each is a process with a time limit (``driver``), and each measurement in it is a step that is tried
alone (``steps``), so one failure costs one measurement. ``record`` keeps what was found, ``page``
turns it into tables.

Needs what ``jobs.bench`` needs, and nothing else.
"""
