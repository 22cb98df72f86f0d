"""From a network and its call to an anatomy: which axes share their units."""
