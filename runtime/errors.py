"""The exceptions that a user is meant to read."""


class UserError(Exception):
    """Bad input or a full disk: one line that names the cause and the fix. Commands print it and exit with its code."""

    exit_code = 2


class MissingPackage(UserError):
    """A package that only some work needs is not installed, or not in the release that it needs."""


class GateError(UserError):
    """A bundle that does not hold its gates."""

    exit_code = 1
