"""The deployment files name things that exist."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.messages import celery_config
from contract.settings import PREFIX, Settings
from producer.cli import screen
from tests.support.commands import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / name)
    return parser


def test_only_settings_that_exist_are_set() -> None:
    named = set()
    for file in (file for file in DEPLOY.rglob("*") if file.is_file()):
        named |= set(re.findall(r"\bSCREEN_[A-Z_]+", file.read_text()))
    assert named
    assert named <= SETTINGS


def test_compose_pins_its_images_and_runs_commands_that_exist() -> None:
    for name, service in compose()["services"].items():
        tag = service["image"].partition(":")[2]
        assert tag, name
        assert "latest" not in tag, name
        if service["image"].startswith("slide-screen") and "command" in service:
            assert service["command"][0] in screen.lazy


def test_compose_keeps_the_archive_read_only_and_redis_from_evicting() -> None:
    services = compose()["services"]
    assert all(volume.endswith(":ro") for volume in services["worker"]["volumes"])
    assert "noeviction" in services["redis"]["command"]


def test_the_image_copies_what_exists_and_no_torch() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    allowed = set((REPOSITORY / ".dockerignore").read_text().splitlines())
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert (REPOSITORY / source).exists(), source
            assert f"!{source}" in allowed, source
    assert "USER screen" in dockerfile
    assert "\ntorch==" not in (REPOSITORY / "requirements" / "base.txt").read_text()


@pytest.mark.parametrize("name", ["screen-worker.service", "screen-submit.service"])
def test_the_units_start_commands_that_exist_without_root(name: str) -> None:
    service = unit(name)["Service"]
    program, command = service["ExecStart"].split()[:2]
    assert program.endswith("/bin/screen")
    assert command in screen.lazy
    assert service["User"] == "screen"
    assert service["NoNewPrivileges"] == "yes"


def test_systemd_waits_longer_than_the_worker_takes_to_stop() -> None:
    patience = celery_config("redis://")["worker_soft_shutdown_timeout"]
    assert int(unit("screen-worker.service")["Service"]["TimeoutStopSec"]) > patience
    assert int(compose()["services"]["worker"]["stop_grace_period"].rstrip("s")) > patience


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for file in (DEPLOY / "systemd").glob("screen-*"):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", file.read_text(), flags=re.MULTILINE)
        (tmp_path / file.name).write_text(text)
    units = [str(file) for file in tmp_path.iterdir()]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert "Unknown" not in done.stderr
    assert done.returncode == 0, done.stderr
