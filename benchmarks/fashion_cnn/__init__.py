"""Channels and dense units of a small CNN under one parameter budget."""
