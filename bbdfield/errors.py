"""Errors shared by the whole package; defined with the solvers, which may not import from here."""

from solvers.errors import InputError, NumericsError

__all__ = ["InputError", "NumericsError"]
