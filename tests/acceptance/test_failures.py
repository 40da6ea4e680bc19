"""Whatever goes wrong at the command line is a sentence and an exit code: never a traceback, and never exit 1."""

import subprocess
import sys
import uuid
from pathlib import Path

import click
import pytest
from sqlalchemy import create_engine, text

from contract.bundle import Bundle
from contract.errors import ExitCode
from db.engine import open_engine
from db.schema import upgrade
from db.submission import submit
from producer import cli
from producer.lazy import Lazy
from tests.support.archives import write_archive
from tests.support.commands import Environment
from tests.support.runs import found, request
from tests.support.servers import RedisServer

NAMES = {"病人 1": "Pro", "P2": "Benign"}


@pytest.fixture
def submitted(environment: Environment, bundle: Bundle, tmp_path: Path) -> Environment:
    """A database with one run, of a patient whose name is in Chinese."""
    archive = write_archive(tmp_path / "archive", NAMES, captures=2)
    assert environment.screen("db", "upgrade").code == ExitCode.OK
    done = environment.screen("submit", archive, "--bundle", bundle.path)
    assert (done.code, done.out.strip()) == (ExitCode.OK, "1")
    return environment


def is_a_sentence(err: str) -> bool:
    return "Traceback" not in err and "screen: " in err


@pytest.mark.parametrize(
    "command",
    [
        ("report", 1, "--html"), ("report", 1, "--fhir"), ("review", "export", 1, "--out"),
        ("synth",),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_named(submitted: Environment, command: tuple[object, ...]) -> None:
    place = submitted.folder / "a-file" / "below-it"
    place.parent.write_text("no folder")
    done = submitted.screen(*command, place)
    assert done.code == ExitCode.USAGE, done.err
    assert done.err.endswith(f"{place} cannot be written ({place.parent}: Not a directory); name another\n"), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("form", ["--table", "--json", "--csv"])
def test_a_terminal_that_is_not_utf8_gets_what_it_can_show(submitted: Environment, form: str) -> None:
    done = submitted.screen("report", 1, form, PYTHONIOENCODING="latin-1", PYTHONUTF8="0", LC_ALL="C")
    assert done.code == ExitCode.OK, done.err
    if form == "--json":
        assert sorted(case["patient"] for case in done.json["cases"]) == sorted(NAMES)
    elif form == "--csv":  # for programs: always UTF-8
        assert "病人 1" in done.out
    else:
        assert r"\u75c5\u4eba 1" in done.out


def test_a_pipe_that_is_closed_ends_a_command_quietly(submitted: Environment) -> None:
    command = [submitted.python, "-m", "producer.cli", "report", "1", "--json"]
    reader = subprocess.Popen(
        command, cwd=submitted.folder, env=submitted.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.close()
    assert (reader.wait(60), reader.stderr.read()) == (ExitCode.OK, b"")


def test_ascii_is_no_mistake_where_it_is_what_the_terminal_can_show(submitted: Environment) -> None:
    for form in ("--table", "--json"):
        command = [submitted.python, "-m", "producer.cli", "report", "1", form]
        odd = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
        done = subprocess.run(command, cwd=submitted.folder, env=submitted.variables | odd, capture_output=True)
        assert done.returncode == ExitCode.OK, done.stderr
        assert rb"\u75c5\u4eba 1" in done.stdout
        done.stdout.decode("ascii")


@pytest.mark.parametrize(
    "command",
    [
        ("cancel", 1), ("resume", 1), ("retry", 1), ("recompute", 1, "--apply"), ("purge", "--older-than", "1d"),
        ("review", "next"), ("review", "confirm", 1), ("queue", "take"), ("db", "upgrade"), ("submit",), ("run",),
    ],
)  # fmt: skip
def test_a_role_that_may_only_read_is_told_so(
    postgres_url: str, redis_server: RedisServer, bundle: Bundle, tmp_path: Path, command: tuple[object, ...]
) -> None:
    """`retry` and the like find nothing to do, and then do nothing; none fails in another way."""
    engine = open_engine(postgres_url)
    upgrade(engine)
    admin = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    role = f"reader_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
    submit(engine, request(bundle, found("P1", "0.jpg")))
    engine.dispose()
    url = engine.url.set(username=role, drivername="postgresql").render_as_string(hide_password=False)
    environment = Environment(tmp_path, url, redis_server.url)
    if command[0] in ("submit", "run"):
        command = (*command, write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=1), "--bundle", bundle.path)
    try:
        done = environment.screen(*command, SCREEN_REVIEWER="anna")
        assert done.code in (ExitCode.OK, ExitCode.USAGE), done.err
        assert "Traceback" not in done.err
        if done.code == ExitCode.USAGE and command[:2] != ("review", "confirm"):
            assert "the database refuses this (permission denied" in done.err
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
        admin.dispose()


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (["run", "an archive", "--all"], "To go on: screen run 'an archive' --all"),
        (["--debug", "run", "a"], "To go on: screen --debug run a"),
        (["train", "data", "--no-resume", "--out", "b"], "To go on: screen train data --out b"),
        (["compare", "data", "--out", "c"], "finished bundles are kept"),
        (["synth", "out"], "what was drawn is kept"),
        (["watch", "7"], "`screen watch latest` follows it"),
        (["submit", "a", "--watch"], "`screen watch latest` follows it"),
        (["status"], "screen: interrupted\n"),
    ],
)  # fmt: skip
def test_ctrl_c_says_how_to_go_on(
    arguments: list[str], goes_on: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command(context_settings={"ignore_unknown_options": True})
    @click.argument("anything", nargs=-1)
    def interrupted(anything: tuple[str, ...]) -> None:
        raise KeyboardInterrupt

    name = next(word for word in arguments if not word.startswith("-"))
    monkeypatch.setitem(cli.SECTIONS, "Interrupted", {name: Lazy(f"{__name__}:interrupted", "")})
    monkeypatch.setattr(sys.modules[__name__], "interrupted", interrupted, raising=False)
    assert cli._exit_code(arguments) == ExitCode.INTERRUPTED
    assert goes_on in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("a fault"), ValueError("of a driver"), UnicodeError("no text"), OSError(5, "I/O error")]
)
def test_a_fault_of_the_program_is_exit_70_and_its_place_is_shown_on_demand(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setitem(cli.SECTIONS, "Broken", {"broken": Lazy(f"{__name__}:broken", "")})
    monkeypatch.setattr(sys.modules[__name__], "broken", broken, raising=False)
    assert cli._exit_code(["broken"]) == ExitCode.BROKEN
    err = capsys.readouterr().err
    assert is_a_sentence(err)
    assert "failed" in err
    assert cli._exit_code(["--debug", "broken"]) == ExitCode.BROKEN
    assert "Traceback" in capsys.readouterr().err
