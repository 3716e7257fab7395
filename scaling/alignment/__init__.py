"""Bringing the loadings of several datasets onto one scale."""
