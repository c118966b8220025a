"""Base classes of errors that the user can fix."""


class UserError(Exception):
    """Something wrong outside the code: a file, a key, a server. The message names it and says what to do.

    Stages and commands show it as a message; any other exception is a bug and keeps its traceback.
    """


class LostWorkerError(UserError):
    """A worker process died more often than it may be restarted."""
