"""What every benchmark line says about where it was measured."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tigon.scaling.recording import versions

_DECISIVE = ("tigon", "numpy", "numba", "scipy", "python")


def machine() -> dict[str, str | int]:
    """Commit, processor, cores, and versions of what computes."""
    found = versions()
    return {
        "commit": _commit(),
        "cpu": found["processor"],
        "cores": os.cpu_count() or 0,
        **{name: found[name] for name in _DECISIVE},
    }


def _commit() -> str:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
