"""`embedprefs doctor`: what this machine can do, what is missing, and the command that adds it."""

from __future__ import annotations

import typer

from embedprefs.cli.plugin import (
    ExitCode,
    FormatOption,
    ResultFormat,
    command,
    print_json,
    print_result,
    print_table,
    styled,
)

__all__ = ["doctor", "register"]

_STYLES = {"ok": "green", "missing": "blue", "problem": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor")(doctor)


def doctor(result_format: FormatOption = ResultFormat.TEXT) -> int:
    """Describe this machine: versions, devices, memory, CUDA against the driver, instruction sets, backends.

    What is missing is said with the command that adds it. Exits 1 where something will fail.
    """
    from dataclasses import asdict

    from embedprefs import __version__
    from embedprefs.hardware import detect_hardware, diagnose

    hardware = detect_hardware()
    diagnoses = diagnose(hardware)
    problems = [diagnosis for diagnosis in diagnoses if diagnosis.status == "problem"]
    if result_format is ResultFormat.JSON:
        print_json(
            {
                "embedprefs": __version__,
                "hardware": hardware.to_json(),
                "diagnoses": [asdict(diagnosis) for diagnosis in diagnoses],
            }
        )
    else:
        print_result(styled(f"embedprefs {__version__}", "bold"))
        print_table(("", "", ""), [(diagnosis.status, diagnosis.subject, diagnosis.message) for diagnosis in diagnoses])
        commands = [(diagnosis.subject, diagnosis.command) for diagnosis in diagnoses if diagnosis.command]
        if commands:
            print_result("")
            print_table(("", ""), commands, title="To change it:")
        print_result("")
        count = len(problems)
        print_result(f"{count} problem{'s' if count != 1 else ''}." if problems else "No problem found.")
    return ExitCode.NEGATIVE if problems else ExitCode.DONE
