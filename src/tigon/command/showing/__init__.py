"""How a command speaks to its user: progress, results, failures."""
