"""Policies, their turn, and what becomes of their decisions."""
