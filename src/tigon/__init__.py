"""Tigon: integration of single-cell atlases that do not fit in memory."""

__version__ = "0.1.0"
