"""`embedprefs check`: every finding at once, before the first vector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedprefs.cli.plugin import (
    ExitCode,
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    load,
    print_json,
    print_result,
    say,
    styled,
)

if TYPE_CHECKING:
    from embedprefs.checks import Finding

__all__ = ["check", "register"]

_STYLES = {"error": "bold red", "warning": "yellow", "note": "blue"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "check")(check)


def check(
    preferences: PreferencesOption = None,
    set_: SetOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    result_format: FormatOption = ResultFormat.TEXT,
) -> int:
    """Check the preferences against the model's files and this machine; every finding at once.

    Reads no weights and works offline. Exits 1 where a finding is an error (with --strict also a warning).
    As JSON, the result is a list of findings.
    """
    from embedprefs.checks import check as run_checks

    prefs = load(preferences, set_)
    findings = run_checks(prefs)
    if result_format is ResultFormat.JSON:
        print_json([finding.to_json() for finding in findings])
    else:
        _print_findings(findings, prefs.file, prefs.model.name)
    failing = {"error", "warning"} if strict else {"error"}
    failed = any(finding.severity in failing for finding in findings)
    return ExitCode.NEGATIVE if failed else ExitCode.DONE


def _print_findings(findings: list[Finding], file: Path | None, model: str) -> None:
    for finding in findings:
        heading = styled(f"{finding.severity}[{finding.code}]", _STYLES[finding.severity])
        place = f" {finding.origin}:" if finding.origin else ""
        subject = f" {finding.field}:" if finding.field else ""
        heading.append(f"{place}{subject} {finding.message}", style="default")
        print_result(heading)
        print_result(styled(f"  {finding.fix}", "dim"))
    counts = [
        f"{count} {word}{'s' if count != 1 else ''}"
        for word in ("error", "warning", "note")
        if (count := sum(finding.severity == word for finding in findings))
    ]
    print_result(f"{file or model}: {', '.join(counts) if counts else 'nothing found'}")
    if findings:
        say(f"embedprefs explain {findings[0].code} says why, with an example.")
