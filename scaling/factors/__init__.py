"""Factors of a run: what they are made of, which of them look technical, and leaving some out."""
