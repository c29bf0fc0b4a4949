"""The one exception that users of this package are meant to read."""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message says what to do.

    Args:
        message: one line. Line breaks of any kind, which a quoted value may bring along, become
            spaces.
        details: further lines, such as the mistakes of a file, one a line.
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
