"""What a check says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing a check found."""

    code: str
    """Name of the rule, `"prompts-missing"`; `embedprefs explain CODE` says more."""
    severity: Severity
    """error: vectors would be wrong, or it would fail later; warning: likely unwanted; note: worth knowing."""
    field: str | None
    """Dotted key of the preference it is about; None where it is about the model or the machine."""
    message: str
    """What was found, with the values."""
    fix: str
    """What to do."""
    origin: str | None = None
    """Where the value was written, where it was written at all."""

    def __str__(self) -> str:
        place = f"{self.origin}: " if self.origin else ""
        subject = f"{self.field}: " if self.field else ""
        return f"{self.severity}[{self.code}] {place}{subject}{self.message}\n  {self.fix}"

    def to_json(self) -> Mapping[str, Any]:
        """Return the finding as JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "field": self.field,
            "message": self.message,
            "fix": self.fix,
            "origin": self.origin,
        }
