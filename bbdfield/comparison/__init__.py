"""Field against lattice: errors, fitted orders, predictability horizon."""
