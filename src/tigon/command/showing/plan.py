"""What a run would take, for ``tigon integrate --dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tigon.scaling.budget import Plan


def describe_plan(plan: Plan, memory_limit: str) -> dict[str, Any]:
    """Passes, bytes and memory as plain facts."""
    return {
        "kind": "plan",
        "atlas_passes": plan.atlas_passes,
        "pack_passes": plan.pack_passes,
        "atlas_bytes": plan.atlas_bytes,
        "peak_bytes": plan.peak_bytes,
        "memory_limit": memory_limit,
        "window": plan.window,
        "stages": dict(plan.stages),
    }


def tell_plan(facts: dict[str, Any]) -> str:
    """Facts of :func:`describe_plan` as text."""
    from tigon.command.showing.describe import lay_out
    from tigon.wording import tell_bytes

    atlas_bytes = facts["atlas_bytes"]
    each = f", {tell_bytes(atlas_bytes)} each" if atlas_bytes is not None else ""
    # Of an integration what is streamed again and again are the selected genes.
    packed = [("passes over the selected genes", f"at least {facts['pack_passes']}")]
    solver, least = [], ""
    if "solver" in facts:
        packed, solver = [], [("solver", f"{facts['solver']}: {facts['reason']}")]
        least = "at least " if facts["solver"] == "krylov" else ""
    widest = max(facts["stages"].values())
    stages = [
        (f"  {name}", tell_bytes(need) + (" (the most)" if need == widest else ""))
        for name, need in facts["stages"].items()
    ]
    return lay_out(
        [
            ("passes over the counts", f"{least}{facts['atlas_passes']}{each}"),
            *packed,
            *solver,
            ("memory", f"up to {tell_bytes(facts['peak_bytes'])} of {facts['memory_limit']}"),
            *stages,
            ("blocks in flight", str(facts["window"])),
        ]
    )
