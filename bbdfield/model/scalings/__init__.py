"""Scalings: how weights depend on a_x, and the field equation in the limit. Adding one is a file here and its entry."""

from bbdfield.model.scalings.base import BulkEquation, Scaling, WidthOperator
from bbdfield.model.scalings.critical import Critical
from bbdfield.model.scalings.plain import Plain
from bbdfield.model.scalings.residual import Residual

SCALINGS: dict[str, type[Scaling]] = {kind.name: kind for kind in (Residual, Critical, Plain)}

__all__ = ["SCALINGS", "BulkEquation", "Critical", "Plain", "Residual", "Scaling", "WidthOperator"]
