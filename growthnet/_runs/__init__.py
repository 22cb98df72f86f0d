"""Whole runs: ticks, chunks of them, and Python around them."""
