"""Runs as files, and back."""
