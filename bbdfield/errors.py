"""Errors shared by the whole package; the first two are defined with the solvers, which may not import from here."""

from solvers.errors import InputError, NumericsError

__all__ = ["Damaged", "InputError", "NumericsError"]


class Damaged(InputError):
    """A file that was truncated, half written or altered; the message names it, what is wrong, and the remedy."""
