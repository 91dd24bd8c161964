"""Sweeps: one study at many settings, each point in a directory of its own, and a table of all of them."""
