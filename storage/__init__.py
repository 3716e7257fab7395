"""Bytes in, bytes out: atlases, packs and runs."""
