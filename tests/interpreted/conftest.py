"""Tests in Triton's interpreter, which runs kernels on the CPU; test_kernels.py starts them.

The interpreter is chosen when Triton is imported, so these tests need a process of their own:
``TRITON_INTERPRET=1 pytest tests/interpreted``.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
