"""What a process needs of its node's environment, and what may travel there in the open."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable

from cluster.redaction import is_secret_name, redact
from steersweep.errors import StopRunError, UserError

NEEDS_VARIABLE = "STEERSWEEP_NEEDS"
"""Names, joined by commas, of variables that driver and replicas must find on their nodes."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def require_variables() -> None:
    """Raise `StopRunError` if a variable that was said to be needed is not set here."""
    names = [name for name in os.environ.get(NEEDS_VARIABLE, "").split(",") if name]
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise StopRunError(
            f"{' and '.join(missing)} must be in the environment of Ray on every node, but is not "
            f"set on {socket.gethostname()}; set it where Ray is started on that node, or submit "
            "the job without asking for it"
        )


def needs(names: Iterable[str]) -> dict[str, str]:
    """The setting that makes `require_variables` ask for these; none for no names."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if not _NAME.fullmatch(name):
            # The value is not repeated: it may be a secret.
            raise UserError(
                "a variable that nodes must have is given by its name, without a value",
                cause="needs_with_value",
            )
    return {NEEDS_VARIABLE: ",".join(wanted)} if wanted else {}


def plain_variables(settings: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` settings as a mapping.

    Raises `UserError` for one that holds, or by its name should hold, a secret: settings of a
    job can be read by anybody who reaches the cluster's dashboard.
    """
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise UserError("a setting must look like NAME=VALUE", cause="no_setting")
        if is_secret_name(name) or redact(setting) != setting or "${" in value:
            raise UserError(
                f"{name} looks like a secret, and anyone who can reach the dashboard can "
                "read a job's settings; set it where Ray is started on each node",
                cause="secret_setting",
                name=name,
            )
        found[name] = value
    return found
