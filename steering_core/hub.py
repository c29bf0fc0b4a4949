"""Whether the model hub can be asked, found out once and within seconds.

Without this, ``huggingface_hub`` retries each file of a model for half a minute while a machine is
off the network, and then says something about a tokenizer.
"""

from __future__ import annotations

import threading
from functools import cache

PROBE_S = 10.0
"""The longest wait for the hub's first answer, in seconds."""

_SERVER_ERROR = 500


def is_offline() -> bool:
    """Whether files come from the hub's cache alone: it cannot be reached, or must not be asked.

    The first call of a process asks the hub, which takes at most ``PROBE_S`` seconds; later calls
    give the same answer.
    """
    from huggingface_hub import constants, is_offline_mode

    return is_offline_mode() or not _answers(constants.ENDPOINT)


def why_offline() -> str:
    """The reason for ``is_offline``, as the end of a sentence."""
    from huggingface_hub import constants, is_offline_mode

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set, so nothing is downloaded"
    return f"{constants.ENDPOINT} cannot be reached from this machine"


def has_cached(path: str, file: str, revision: str | None) -> bool:
    """Whether the hub's cache on this machine holds a file of a model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(path, file, revision=revision), str)


@cache
def _answers(endpoint: str) -> bool:
    from huggingface_hub import get_session

    heard = threading.Event()

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=PROBE_S).status_code
        except Exception:  # of whatever kind: no answer
            return
        if status < _SERVER_ERROR:  # a gateway that cannot reach the hub says so with 502 or 504
            heard.set()

    # A thread, since looking up the host's name has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_S)
    return heard.is_set()
