"""The exact lattice theory: (W, b) ↔ (W, z), bulk and boundary, forces, energy and symmetry of any given network."""
