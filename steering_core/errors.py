"""The one exception that users of this package are meant to read."""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message is one line that says what to do."""
