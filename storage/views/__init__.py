"""An atlas or a run as other libraries see it."""
