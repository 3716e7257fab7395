"""Cells in random order, a mini-batch at a time, read ahead of whoever takes them."""
