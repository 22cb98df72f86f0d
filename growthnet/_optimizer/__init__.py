"""Optimizer states, read off `init` and `update`."""
