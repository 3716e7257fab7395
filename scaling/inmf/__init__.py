"""Online integrative non-negative matrix factorisation."""
