"""Exit codes, streams, plugins: what every command has in common."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import typer

from embedprefs import __version__, errors
from embedprefs.cli import main
from embedprefs.cli.exits import ExitCode, run_safely
from embedprefs.cli.main import create_app
from embedprefs.cli.output import say
from embedprefs.errors import EmbedPrefsError, EmbedPrefsWarning

ERRORS = {
    errors.PreferencesFileError("no file"): 2,
    errors.InvalidPreferenceError(errors.Problem("wrong")): 2,
    errors.CheckFailedError([]): 1,
    errors.PreferenceMismatchError("other"): 1,
    errors.ModelFilesError("damaged"): 2,
    errors.InputError("empty"): 2,
    errors.OverlongTextError("long"): 2,
    errors.ResourceError("no GPU"): 2,
    errors.UnavailableError("offline"): 3,
    errors.PartialResultError("some"): 4,
    errors.MissingExtraError("pyarrow", extra="parquet", needed_for="Parquet"): 2,
    KeyboardInterrupt(): 130,
    FileNotFoundError(2, "No such file", "x.txt"): 3,
    MemoryError(): 2,
    ZeroDivisionError("division by zero"): 70,
}


@pytest.mark.parametrize(("error", "code"), ERRORS.items(), ids=lambda value: type(value).__name__)
def test_every_error_ends_with_its_exit_code_and_no_traceback(error, code, capsys):
    def fail():
        raise error

    assert run_safely(fail) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert "Traceback" not in captured.err


def test_every_error_class_has_an_exit_code_in_this_table():
    """A new error class has to be decided about here too."""
    classes = {item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, EmbedPrefsError)}
    assert classes - {EmbedPrefsError} == {type(error) for error in ERRORS if isinstance(error, EmbedPrefsError)}


def test_debug_shows_the_traceback(capsys):
    def fail():
        raise errors.InputError("empty")

    assert run_safely(fail, debug=True) == ExitCode.WRONG_REQUEST
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_bug_of_ours_asks_for_a_report(capsys):
    assert run_safely(lambda: 1 // 0) == ExitCode.BUG
    message = capsys.readouterr().err
    assert "ZeroDivisionError" in message
    assert "report" in message
    assert "--debug" in message


def test_our_warnings_are_sentences_and_each_is_shown_once(capsys):
    def warn():
        for _ in range(3):
            warnings.warn("the commit is not pinned.", EmbedPrefsWarning, stacklevel=1)

    assert run_safely(warn) == ExitCode.DONE
    assert capsys.readouterr().err == "Warning: the commit is not pinned.\n"


def test_a_finding_that_is_warned_of_gets_no_second_mark(capsys):
    def warn():
        warnings.warn("warning[revision-not-pinned] model.revision: It may change.", EmbedPrefsWarning, stacklevel=1)

    assert run_safely(warn) == ExitCode.DONE
    assert capsys.readouterr().err == "warning[revision-not-pinned] model.revision: It may change.\n"


def test_quiet_leaves_out_messages_but_no_warning(capsys):
    def talk():
        say("Loading the model.")
        warnings.warn("unpinned.", EmbedPrefsWarning, stacklevel=1)

    run_safely(talk, be_quiet=True)
    assert capsys.readouterr().err == "Warning: unpinned.\n"
    run_safely(talk)
    assert "Loading the model." in capsys.readouterr().err


def test_brackets_in_messages_are_no_markup(capsys):
    def fail():
        raise errors.InputError("[bold] is [/not] markup, and a long line is not wrapped: " + "x" * 300)

    run_safely(fail)
    assert "[bold] is [/not] markup" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["check", "--nonsense"], ["embed"], ["check", "--format", "xml"], ["init", "a", "b"]],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_parsed_exits_2(run, arguments):
    ended = run(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err


def test_the_version_is_a_result(run):
    assert run("--version").out == f"embedprefs {__version__}\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one module and its entry point."""
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(str(packages))

    def install_distribution(name, code):
        module = name.replace("-", "_")
        (packages / f"{module}.py").write_text(textwrap.dedent(code))
        information = packages / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[embedprefs.commands]\n{name} = {module}:register\n")

    return install_distribution


def test_a_distribution_adds_its_commands(run, install):
    install(
        "embedprefs-greeting",
        """
        from embedprefs.cli.plugin import command, print_result

        def register(app):
            command(app, "greet")(greet)

        def greet() -> int:
            "Greet."
            print_result("hello")
            return 1
        """,
    )
    ended = run("greet", "--quiet")
    assert (ended.code, ended.out) == (1, "hello\n")
    assert "Greet." in run("--help").out


def test_a_distribution_that_cannot_be_imported_is_named_and_breaks_nothing(run, install):
    install("embedprefs-broken", "import a_package_that_is_not_there")
    assert run("schema").code == 0
    ended = run("--help")
    assert ended.code == 0
    assert "migrate-config" in ended.out
    assert "Warning: the commands of embedprefs-broken are left out" in ended.err
    assert "a_package_that_is_not_there" in ended.err


def test_a_distribution_cannot_replace_a_command(run, install):
    install("embedprefs-other", "def register(app):\n    app.command('schema')(lambda: None)")
    assert 'embedprefs-other adds a command "schema", which exists already' in run("--help").err
    assert "json-schema.org" in run("schema").out


def test_our_own_commands_import_no_other_distribution(run, install):
    """A slow or broken integration slows and breaks its own commands only."""
    install("embedprefs-broken", "import a_package_that_is_not_there")
    assert run("schema").err == ""


def test_a_command_of_a_distribution_that_is_not_installed_says_which_adds_it(run, monkeypatch):
    monkeypatch.setitem(main._ADDED_BY, "polish", ("embedprefs-polish", "polish"))
    ended = run("polish", "docs")
    assert ended.code == 2
    assert 'the command "polish" comes with embedprefs-polish' in ended.err
    assert 'pip install "embedprefs[polish]"' in ended.err


def test_a_command_that_does_not_exist_says_how_it_is_done(run):
    """Advice that can be followed today, and not the installation of what is there."""
    ended = run("migrate", "--collection", "new")
    assert ended.code == 2
    assert "embedprefs index --collection NAME" in ended.err
    assert "pip install" not in ended.err


def test_every_command_takes_the_common_options():
    """--quiet and --debug come with the decorator, so no command can forget them."""
    commands = typer.main.get_command(create_app()).commands
    assert list(commands) == [
        *("init", "show", "check", "explain", "doctor", "embed", "calibrate"),
        *("evaluate", "compare", "train", "compile", "bench", "schema", "migrate-config"),
    ]
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--quiet", "--debug"} <= options, name
        assert command.help, name
        assert all(parameter.help for parameter in command.params), name


def test_a_reader_that_leaves_early_is_no_error():
    """`embedprefs schema | head -1` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "embedprefs.cli", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 0


def test_ctrl_c_exits_130_without_a_traceback(tmp_path):
    """Also while a command waits, here for its input."""
    # A shell that runs the tests in the background lets them ignore Ctrl-C, which the process would inherit.
    script = textwrap.dedent("""
        import signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from embedprefs.cli.exits import run_safely
        def wait():
            print("waiting", flush=True)
            time.sleep(60)
        sys.exit(int(run_safely(wait)))
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdout.readline() == b"waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode() == "Error: interrupted.\n"
