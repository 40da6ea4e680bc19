"""Whether an output can be written is known before the work, and the check leaves no trace."""

import errno
import io
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from contract.errors import ExitCode
from contract.files import check_folder
from contract.outputs import YOURS_TO_MEND, AppendedFile, NewFolder, Output, OutputFile, OutputFolder
from producer.cli import screen

TYPES = {"file": OutputFile, "log": AppendedFile, "new": NewFolder, "folder": OutputFolder}


def outcome(kind: str, path: Path) -> tuple[int, str]:
    """The exit code and the words of a command with an option of this kind."""

    @click.command()
    @click.option("--out", type=TYPES[kind]())
    def command(out: Path) -> None:
        click.echo(f"works for hours on {type(out).__name__} {out}")

    done = CliRunner().invoke(command, ["--out", str(path)])
    return done.exit_code, done.output


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["out", "missing/folder/out"])
def test_what_can_be_written_is_taken_and_not_touched(tmp_path: Path, kind: str, name: str) -> None:
    code, says = outcome(kind, tmp_path / name)
    assert (code, "works for hours on PosixPath" in says) == (ExitCode.OK, True), says
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("kind", TYPES)
def test_what_lies_below_a_file_is_refused_before_the_work_with_the_options_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, says = outcome(kind, tmp_path / "file" / "below" / "out")
    assert code == ExitCode.USAGE
    assert "--out" in says
    assert f"{tmp_path / 'file'}" in says.replace("\n", "")
    assert "works for hours" not in says


@pytest.mark.parametrize("kind", ["file", "log"])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    assert outcome(kind, tmp_path)[0] == ExitCode.USAGE


def test_a_file_that_may_not_be_read_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    (tmp_path / "out").chmod(0)
    assert outcome("file", tmp_path / "out")[0] == ExitCode.OK


def test_a_folder_that_is_filled_needs_no_right_on_the_one_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mounted disk in a folder of root."""
    (tmp_path / "out").mkdir()
    tried: list[str] = []

    def try_it(dir: Path) -> io.BytesIO:
        tried.append(str(dir))
        return io.BytesIO()

    monkeypatch.setattr("contract.files.tempfile.TemporaryFile", try_it)
    assert outcome("folder", tmp_path / "out")[0] == ExitCode.OK
    assert outcome("new", tmp_path / "out")[0] == ExitCode.OK
    assert tried == [str(tmp_path / "out"), str(tmp_path)]


def test_a_full_disk_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"{dir}/tmpx")

    monkeypatch.setattr("contract.files.tempfile.TemporaryFile", full)
    with pytest.raises(OSError, match="No space left") as raised:
        check_folder(tmp_path)
    assert raised.value.filename == str(tmp_path)
    assert outcome("file", tmp_path / "out")[0] == 1, "it reaches the command line's own handling"


WRITTEN = ("out", "html", "fhir", "worker_log", "checkpoint", "cache", "cells")


def outputs_of_commands() -> list[tuple[str, click.Parameter]]:
    """Every option and argument of `screen` that names what is written."""
    found: list[tuple[str, click.Parameter]] = []

    def look(path: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                below = command.get_command(click.Context(command), name)
                assert below is not None
                look(f"{path} {name}", below)
        found.extend((path, param) for param in command.params if param.name in WRITTEN)

    look("screen", screen)
    return found


def test_every_command_knows_before_its_work_whether_its_outputs_can_be_written() -> None:
    outputs = outputs_of_commands()
    named = {(path, param.name) for path, param in outputs}
    assert {
        ("screen run", "html"),
        ("screen run", "worker_log"),
        ("screen synth", "out"),
        ("screen adapt", "out"),
    } <= named
    unchecked = {(path, param.name) for path, param in outputs if not isinstance(param.type, Output)}
    assert unchecked == {("screen train", "out")}, "trainer.run looks at it itself: a bundle, or a folder of folds"


def test_a_training_does_not_begin_where_its_bundle_could_not_be_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from trainer.run import Work, refuse_taken

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError) as raised:
        refuse_taken(tmp_path / "file" / "x.bundle", Work(tmp_path))
    assert raised.value.errno in YOURS_TO_MEND
    refuse_taken(tmp_path / "free" / "x.bundle", Work(tmp_path))
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
