"""What one driver bears: `python -m tests.scale.driver`, `tests.scale.resume`."""
