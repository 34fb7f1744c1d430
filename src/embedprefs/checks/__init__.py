"""The rules: what would go wrong without an error, found before the first vector is computed."""

from __future__ import annotations

from embedprefs.checks.finding import Finding, Severity

__all__ = ["Finding", "Severity"]
