"""The errors that users read. Every package of the project may import this module."""


class UserError(ValueError):
    """The user must change something; the message says what.

    The command line prints it without a traceback and exits with 2.

    Args:
        message: one line: what is wrong, the value, the limit, what to do. Line breaks, which a
            quoted value may contain, become spaces.
        details: further lines, such as all mistakes of a file, one a line.
        cause: a name of what is wrong, where only a caller knows which setting of the user's
            decides it: that caller finds the error by this name and adds what to do.
        facts: what this advice quotes, by name.

    Attributes:
        cause: as given; empty for an error that says it all.
        facts: as given.
    """

    def __init__(self, message: str, *details: str, cause: str = "", **facts: object) -> None:
        # Every line is an argument of the base class, so the error survives pickling.
        super().__init__(*(" ".join(line.splitlines()) for line in (message, *details)))
        self.cause, self.facts = cause, facts

    @property
    def lines(self) -> tuple[str, ...]:
        """The message, then the details."""
        return tuple(str(line) for line in self.args)

    def add_to_message(self, text: str) -> None:
        """Let the first line end with this text as well; its type and traceback stay."""
        message, *details = self.lines
        self.args = (f"{message}{text}", *details)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class StopRunError(UserError):
    """Every task would meet this alike: it ends the run at once.

    A worker raises it where trying the task again, or another task, would not help. After a plain
    `UserError` the task is tried again and then set aside, and the other tasks run on.
    """
