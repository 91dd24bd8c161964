"""The two ways a computation can fail: the input was bad, or the numbers were.

Every error that a user can cause is one of these, so that the command line can turn it into one line and an exit code.
"""


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line: what, where, and the remedy (exit code 2)."""


class NumericsError(ArithmeticError):
    """The numerics failed (not finite, ill posed); the message says at which t, x and in which term (exit code 3)."""
