"""Throughput of this machine: plain hooked loops beside the engine, on the same rows.

Needs torch, transformers, numpy and safetensors only, so that it runs on a bare GPU machine
(``python -m jobs.bench``); a test keeps it so.
"""
