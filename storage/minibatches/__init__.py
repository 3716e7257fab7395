"""Mini-batches of shuffled cells, streamed from an atlas."""
