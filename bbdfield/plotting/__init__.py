"""Figures: one function per figure, each takes data and Axes."""
