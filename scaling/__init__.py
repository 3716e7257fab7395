"""Algorithms as folds over blocks, and the engine that runs them."""
