"""Durable distributed execution: storage, parts, lease, dispatch."""
