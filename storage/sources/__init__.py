"""Where counts come from: file formats read as streams of blocks."""
