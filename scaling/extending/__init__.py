"""A run with layouts and clusters made of any of its matrices."""
