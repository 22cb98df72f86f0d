"""Edits: pairs of linear maps, newborn values, static fields, rows of tables."""
