"""Containers whose /dev/shm cannot be written: processes that share locks say so at their start."""

import os
import subprocess
from pathlib import Path

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from tests.support.archives import write_archive
from tests.support.commands import Done, Environment

_ENTER = 'mount -t tmpfs -o {} tmpfs /dev/shm && exec "$@"'


def in_container(environment: Environment, mount_options: str, *arguments: object) -> Done:
    """Run `screen ARGUMENTS` where /dev/shm is mounted with these options, for this command alone."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _ENTER.format(mount_options), "sh", environment.python, "-m",
         "producer.cli", *map(str, arguments)],
        cwd=environment.folder, env=environment.variables, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def alone(tmp_path: Path) -> Environment:
    made = Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "")
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o ro tmpfs /dev/shm"]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting another /dev/shm for one command needs root")
    return made


def test_a_read_only_shm_is_named_by_every_command_that_needs_it(
    alone: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, captures=2)
    assert alone.screen("db", "upgrade").code == ExitCode.OK
    for command in (
        ("worker",), ("run", archive, "--bundle", bundle.path),
        ("synth", tmp_path / "drawn", "--patients", 2, "--captures", 30, "--processes", 2),
    ):  # fmt: skip
        done = in_container(alone, "ro", *command)
        assert done.code == ExitCode.USAGE, done.err
        assert "/dev/shm cannot be written" in done.err
        assert "Traceback" not in done.err
    assert in_container(alone, "ro", "status", "--json").json == [], "`run` has written nothing"


def test_a_full_shm_is_a_lack_of_room(alone: Environment) -> None:
    assert alone.screen("db", "upgrade").code == ExitCode.OK
    done = in_container(alone, "nr_inodes=1", "worker")
    assert done.code == ExitCode.UNAVAILABLE, done.err
    assert "no room left in /dev/shm" in done.err
