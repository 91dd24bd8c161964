"""Numerics only: backends, grids, operators and marching schemes; knows arrays, never a network."""
