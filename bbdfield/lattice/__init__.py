"""The discrete network and its training: the lattice route."""
