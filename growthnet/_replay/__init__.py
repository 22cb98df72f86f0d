"""The traced program at other sizes."""
