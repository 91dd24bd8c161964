"""The continuum fields: equations, coarse-graining and simulation: the field route."""
