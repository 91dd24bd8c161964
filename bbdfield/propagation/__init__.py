"""How signals travel through the bulk: mean-field maps of random networks, and the linearised bulk of given ones."""
