"""Packs: the training matrix, written once and streamed every epoch."""
