"""Where replicas live: in this process, or on a Ray cluster.

Importing this package imports no Ray.
"""

import os

# Under `uv run`, Ray would ship the working directory and rebuild its environment on each node.
# Ray reads this when it is first imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
