"""Open, closed, gated: masked writes inside the program."""
