"""The rules: what would go wrong without an error, found before the first vector is computed."""

from __future__ import annotations

from embedprefs.checks.asking import check, check_loaded
from embedprefs.checks.explaining import explain
from embedprefs.checks.finding import Finding, Severity
from embedprefs.checks.rule import Rule
from embedprefs.checks.table import RULES

__all__ = ["RULES", "Finding", "Rule", "Severity", "check", "check_loaded", "explain"]
