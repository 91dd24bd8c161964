"""What lattice and field are both told: architecture, activations, losses, initial fields, data at the boundary,
records.
"""
