"""Errors that end a command with one line and an exit code, and no traceback."""


class CommandError(Exception):
    """Shown to the user as it is."""

    exit_code = 1


class BadInput(CommandError):
    """The command cannot be done as asked; said before any work."""

    exit_code = 2


class Failed(CommandError):
    """The command was right, but the machine could not do it."""
