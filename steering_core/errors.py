"""The one exception that users of this package are meant to read."""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message is one line that says what to do.

    Line breaks of any kind, which a quoted value may bring along, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))
