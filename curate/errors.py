"""The one exception that is for the user."""


class CurateError(Exception):
    """Something the user can put right: the command line shows the message, no traceback."""
