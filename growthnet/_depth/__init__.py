"""Blocks that come and go, and whether that is exact."""
