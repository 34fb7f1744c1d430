"""`python -m embedprefs.cli`, for where the command itself is not on the path."""

from __future__ import annotations

from embedprefs.cli.main import run

if __name__ == "__main__":
    run()
