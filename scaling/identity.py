"""What a job is: two of the same identity give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigon.scaling.recording import versions

if TYPE_CHECKING:
    from tigon.storage import Atlas


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What two jobs must have in common for one to go on with the other's work.

    Attributes
    ----------
    options
        Everything that decides the result, by dotted name.
    atlas
        Digest of the counts; None where it cannot be told whether they change.
    versions
        Of the software that computes.
    """

    options: Mapping[str, Any]
    atlas: str | None
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they come back from a file."""
        told = {"options": self.options, "atlas": self.atlas, "versions": self.versions}
        plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
        return plain

    def differences(self, was: Mapping[str, Any]) -> list[str]:
        """What is not as it was, in words."""
        now = self.as_json()
        found = [
            f"{name} was {_short(was[part].get(name))} and is {_short(now[part].get(name))}"
            for part in ("options", "versions")
            for name in sorted(was[part].keys() | now[part].keys())
            if was[part].get(name) != now[part].get(name)
        ]
        if was["atlas"] != now["atlas"]:
            found.append(f"the counts changed (digest {was['atlas']}, now {now['atlas']})")
        return found


_NOT_OF_THE_RESULT = ("n_threads", "memory_limit_bytes", "opening.sources")
"""The same counts may be reached in another way: their digest tells."""

_NOT_SOFTWARE = ("processor",)


def identity_of(atlas: Atlas, config: Mapping[str, Any]) -> Identity:
    """Identity of a job on an atlas, given its options, which may be nested.

    Notes
    -----
    The type of processor is not part of it, although last bits may depend on it: a job
    that is moved to another machine goes on.
    """
    options = {n: v for n, v in _flat(config).items() if n not in _NOT_OF_THE_RESULT}
    software = {n: v for n, v in versions().items() if n not in _NOT_SOFTWARE}
    return Identity(options=options, atlas=atlas.digest, versions=software)


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted names."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _short(value: Any) -> str:
    told = json.dumps(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
