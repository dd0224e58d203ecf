"""Findings of `fsexchange doctor`: what one check has seen, whether it matters, what to do."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

#: `ok`: as it should be. `note`: good to know. `matters`: it works, but worse than it could, or not
#: for all uses. `unfit`: it does not work.
Level: TypeAlias = Literal["ok", "note", "matters", "unfit"]


class Finding(NamedTuple):
    """What a check has seen."""

    level: Level
    check: str
    """A word, the same in each version: for scripts."""
    what: str
    remedy: str = ""
    host: str = ""
    """Where it was seen, if not everywhere."""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return self._asdict()
