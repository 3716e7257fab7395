"""Matrices of sources: runs of rows, however they are stored."""
