"""Comparison with lm-evaluation-harness: `python -m tests.external.lm_eval`."""
