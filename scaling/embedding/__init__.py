"""Neighbours, clusters, pictures and the scores that judge them."""
