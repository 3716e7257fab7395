"""Choosing the number of factors and lambda."""
