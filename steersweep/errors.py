"""The errors that users read. Every package of the project may import this module."""


class UserError(ValueError):
    """The user must change something; the message says what.

    The command line prints it without a traceback and exits with 2.

    Args:
        message: one line: what is wrong, the value, the limit, what to do. Line breaks, which a
            quoted value may contain, become spaces.
        details: further lines, such as all mistakes of a file, one a line.
    """

    def __init__(self, message: str, *details: str) -> None:
        # Every line is an argument of the base class, so the error survives pickling.
        super().__init__(*(" ".join(line.splitlines()) for line in (message, *details)))

    @property
    def lines(self) -> tuple[str, ...]:
        """The message, then the details."""
        return tuple(str(line) for line in self.args)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class StopRunError(UserError):
    """Every task would meet this alike: it ends the run at once.

    A worker raises it where trying the task again, or another task, would not help. After a plain
    `UserError` the task is tried again and then set aside, and the other tasks run on.
    """
