"""What the score stage leaves in the run's manifest: the parts of scored/, in the order of the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One file of scored/. It holds one bucket: rows that follow each other in the input."""

    bucket: int
    name: str
    """In the run's store."""
    rows: int
    input_errors: int = 0
    """Of them, those that cannot be asked."""
    predicted_rows: int = 0
    """Of them, those that the router saw."""
    prompt_bytes: int = 0
    noted: Mapping[str, int] = field(default_factory=dict)
    """Of what the plan says of rows (jobs.route.score.fields.bodies.NOTES): how many here."""
    note: str = ""
    """What was odd about where it was scored."""

    def to_json(self) -> dict[str, Any]:
        """Without what there is nothing to say of, as earlier versions wrote it."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("noted", "note")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Part:
        return cls(
            bucket=int(data["bucket"]), name=str(data["name"]), rows=int(data["rows"]),
            input_errors=int(data.get("input_errors", 0)), predicted_rows=int(data.get("predicted_rows", 0)),
            prompt_bytes=int(data.get("prompt_bytes", 0)),
            noted=dict(data.get("noted") or {}), note=str(data.get("note", "")),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoreEntry:
    """`_headgate/score.json`."""

    parts: tuple[Part, ...]
    """In input order."""
    prefix_chars: int
    suffix_chars: int
    """Of the frame that all prompts share."""
    session: str
    """Which start of the job scored."""

    def to_json(self) -> dict[str, Any]:
        return {
            "parts": [part.to_json() for part in self.parts],
            "frame": {"prefix_chars": self.prefix_chars, "suffix_chars": self.suffix_chars}, "session": self.session,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoreEntry:
        frame = data.get("frame", {})
        return cls(
            parts=tuple(Part.from_json(part) for part in data["parts"]), prefix_chars=frame.get("prefix_chars", 0),
            suffix_chars=frame.get("suffix_chars", 0), session=data.get("session", ""),
        )  # fmt: skip
