"""Pruning without training: the weights that stay are fitted to data."""
