"""Two records set side by side, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Comparison", "FieldDifference", "compare_identities"]

#: Fields that only one side may state without the two being at odds: a model alone has no template and no chunks.
_OPTIONAL = frozenset({"template", "chunk_context", "context_window_overlap"})
#: Numerics that are results, not settings.
_NOT_COMPARED = frozenset({"cosine_to_float32"})
_ABSENT = "(not recorded)"
_HASH_FIELDS = frozenset({"weights", "adapter", "custom_code", "tokenizer", "calibration"})


@dataclass(frozen=True)
class FieldDifference:
    """One field that two records do not agree on."""

    field: str
    """Name of the field; `numerics.dtype` for one of the numerics."""
    left: Any
    right: Any
    severity: Literal["soft", "different"]
    """soft: rounding; different: another vector space."""


@dataclass(frozen=True)
class Comparison:
    """The verdict on two records."""

    status: Literal["same", "soft", "different"]
    """same; soft: the same vectors up to rounding; different: another vector space."""
    differences: tuple[FieldDifference, ...]

    def __bool__(self) -> bool:
        """True unless the vector spaces differ."""
        return self.status != "different"

    def to_text(self, left: str = "recorded", right: str = "now") -> str:
        """Return both sides of every difference, one field a line, aligned.

        Args:
            left: What to call the first side.
            right: What to call the second side.
        """
        if not self.differences:
            return "The same vector space: every recorded field agrees."
        heading = {
            "soft": "The same vector space, computed another way (rounding may differ):",
            "different": "Another vector space. These fields differ:",
        }[self.status]
        rows = [("", left, right)]
        rows += [
            (difference.field, _shown(difference, difference.left), _shown(difference, difference.right))
            for difference in self.differences
        ]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        width_left = min(widths[1], 60)
        lines = [heading]
        for index, (field, one, other) in enumerate(rows):
            mark = "" if index == 0 or self.status == "soft" else self._mark(self.differences[index - 1])
            if len(one) > width_left:
                lines += [f"  {field:<{widths[0]}}  {one}", f"  {'':<{widths[0]}}  {'':<{width_left}}  {other}{mark}"]
            else:
                lines.append(f"  {field:<{widths[0]}}  {one:<{width_left}}  {other}{mark}")
        return "\n".join(line.rstrip() for line in lines)

    @staticmethod
    def _mark(difference: FieldDifference) -> str:
        return "  (rounding only)" if difference.severity == "soft" else ""


def _shown(difference: FieldDifference, value: Any) -> str:
    if value is _MISSING:
        return _ABSENT
    if value is None:
        return "none"
    if difference.field in _HASH_FIELDS and isinstance(value, str) and len(value) == 64:
        return f"sha256 {value[:16]}…"
    return json.dumps(value, ensure_ascii=False)


class _Missing:
    """Stands for a field that one side does not have."""

    def __repr__(self) -> str:
        return _ABSENT


_MISSING = _Missing()


def _parts(field: str, left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the parts of two tables that differ, so that one changed entry does not show the whole table."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for name in sorted({*left, *right}):
            yield from _parts(f"{field}.{name}", left.get(name, _MISSING), right.get(name, _MISSING))
    elif left != right:
        yield field, left, right


def _stated(identity: Mapping[str, Any], name: str) -> Any:
    """Return what an identity says of a field; a collection that says nothing of its chunks reads each by itself."""
    if name == "chunk_context" and "template" in identity:
        return identity.get(name, "chunk")
    return identity.get(name, _MISSING)


def compare_identities(
    left_identity: Mapping[str, Any],
    right_identity: Mapping[str, Any],
    left_numerics: Mapping[str, Any] | None = None,
    right_numerics: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare identity, in the order of the fields, then numerics where both sides have them."""
    found: list[FieldDifference] = []
    for name in dict.fromkeys([*left_identity, *right_identity]):
        left, right = _stated(left_identity, name), _stated(right_identity, name)
        if name in _OPTIONAL and (left is _MISSING or right is _MISSING):
            continue
        found += [FieldDifference(*part, severity="different") for part in _parts(name, left, right)]
    # A record that holds no numerics (identity alone) says nothing about rounding.
    if left_numerics and right_numerics:
        for name in dict.fromkeys([*left_numerics, *right_numerics]):
            if name in _NOT_COMPARED:
                continue
            left, right = left_numerics.get(name, _MISSING), right_numerics.get(name, _MISSING)
            found += [FieldDifference(*part, severity="soft") for part in _parts(f"numerics.{name}", left, right)]
    if any(difference.severity == "different" for difference in found):
        return Comparison("different", tuple(found))
    return Comparison("soft" if found else "same", tuple(found))
