"""Write the reference pages that are derived from the code. `make docs` runs this; a test fails on a stale page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from embedprefs.checks.reference import render as checks_page
from embedprefs.cli.reference import render as commands_page
from embedprefs.reference_pages import preferences_page
from embedprefs_qdrant.reference import with_capabilities

HERE = Path(__file__).parent


def stores_page() -> str:
    """Return the page on stores, its table written anew from what the stores say of themselves."""
    return with_capabilities((HERE / "reference" / "stores.md").read_text(encoding="utf-8"))


PAGES: dict[str, Callable[[], str]] = {
    "reference/preferences.md": preferences_page,
    "reference/checks.md": checks_page,
    "reference/commands.md": commands_page,
    "reference/stores.md": stores_page,
}


def main() -> None:
    """Write every generated page."""
    for name, render in PAGES.items():
        (HERE / name).write_text(render(), encoding="utf-8")
        print(f"wrote docs/{name}")  # noqa: T201 - a script that reports what it wrote


if __name__ == "__main__":
    main()
