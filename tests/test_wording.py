"""Durations, scores and settings in words."""

from __future__ import annotations

import pytest

from tigon.wording import HEADLINE, SCORES, known_scores, tell_bytes, tell_seconds, tell_settings


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(8.07, "8.1 s"), (59.9, "59.9 s"), (125, "2 min 05 s"), (4020, "1 h 07 min")],
)
def test_durations(seconds: float, told: str) -> None:
    assert tell_seconds(seconds) == told


def test_sizes() -> None:
    assert (tell_bytes(1.5 * 2**30), tell_bytes(None)) == ("1.5 GiB", "unknown")


def test_known_scores_come_first_in_their_order() -> None:
    found = known_scores({"zeta_share": 0.25, "nmi": 0.5, "best_resolution": 0.4, "ari": 1.0})
    assert list(found) == ["ari", "best_resolution", "nmi", "zeta_share"]
    assert found["ari"].mention(1.0) == "ARI 1.000"
    assert found["best_resolution"].mention(0.4) == "at resolution 0.4"
    assert found["zeta_share"].mention(0.25) == "zeta share 0.25"
    assert SCORES["n_scored"].mention(25000.0) == "of 25,000 cells"
    assert SCORES["nmi"].tell(float("nan")) == "–"
    assert set(HEADLINE) <= set(SCORES)


def test_settings_are_flat_and_short() -> None:
    nested = {"inmf": {"lam": 5.0}, "genes": [f"g{i}" for i in range(2000)], "keys": ["a", "b"]}
    assert list(tell_settings(nested)) == [
        ("inmf.lam", "5.0"),
        ("genes", "g0, g1, g2, g3, g4 and 1,995 more"),
        ("keys", "a, b"),
    ]
