"""Modules of Equinox, Flax NNX and Linen."""
