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
    """A digest can be named for each from outside; no tag floats."""
    example = (DEPLOY / "env.example").read_text()
    for name, service in compose()["services"].items():
        variable, tag = re.fullmatch(r"(?:\$\{(\w+):-)?[\w-]+:([\w.-]+)\}?", service["image"]).groups()  # type: ignore[union-attr]
        assert "latest" not in tag, name
        assert "." in tag, name
        if service["image"].startswith("slide-screen"):
            assert service["build"]["args"].keys() == {"PYTHON_IMAGE"}
            assert "command" not in service or service["command"][0] in screen.lazy
        else:
            assert re.search(rf"^#{variable}=.*:{re.escape(tag)}@sha256:", example, re.MULTILINE), name


def test_every_container_is_closed() -> None:
    made = compose()
    for name, service in made["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["networks"] == ["inside"], name
        assert "ports" not in service, name
        assert service["image"].startswith("slide-screen") or service["user"] == "999:999", name
    assert made["networks"]["inside"]["internal"] is True


def test_compose_keeps_archive_and_bundles_read_only() -> None:
    mounted = [volume for volume in compose()["services"]["worker"]["volumes"] if volume.startswith("${")]
    assert len(mounted) == 2
    assert all(volume.endswith(":ro") for volume in mounted)


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


CLOSED = {
    "CapabilityBoundingSet": "", "ProtectSystem": "strict", "ProtectHome": "yes", "ProtectProc": "invisible",
    "PrivateDevices": "yes", "PrivateTmp": "yes", "PrivateUsers": "yes", "RestrictNamespaces": "yes", "UMask": "0077",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6", "SystemCallArchitectures": "native",
    "StateDirectoryMode": "0700",
}  # fmt: skip
MOST_EXPOSED = 2.0
"""Of 10, by `systemd-analyze security`; before these lines the units had 8.0 and 8.5."""


@pytest.fixture
def runnable(tmp_path: Path) -> list[Path]:
    """The units with a program that exists here."""
    for file in (DEPLOY / "systemd").glob("screen-*"):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", file.read_text(), flags=re.MULTILINE)
        (tmp_path / file.name).write_text(text)
    return sorted(tmp_path.iterdir())


def test_systemd_accepts_the_units(runnable: list[Path]) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(["systemd-analyze", "verify", *map(str, runnable)], capture_output=True, text=True)
    assert "Unknown" not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["screen-worker.service", "screen-submit.service"])
def test_the_units_are_closed(name: str, runnable: list[Path]) -> None:
    service = unit(name)["Service"]
    assert {key: service[key] for key in CLOSED} == CLOSED
    assert "\nSystemCallFilter=@system-service\n" in (DEPLOY / "systemd" / name).read_text()
    if shutil.which("systemd-analyze") is None:
        return
    (file,) = (file for file in runnable if file.name == name)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED * 10:.0f}"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True)
    if "unrecognized option" in done.stderr:  # before systemd 250
        pytest.skip("this systemd-analyze judges no files")
    assert done.returncode == 0, done.stdout


def test_the_worker_may_run_code_that_it_writes() -> None:
    """OpenVINO compiles for the processor; with MemoryDenyWriteExecute it would end with "can't protect"."""
    assert "MemoryDenyWriteExecute" not in unit("screen-worker.service")["Service"]
    assert unit("screen-submit.service")["Service"]["MemoryDenyWriteExecute"] == "yes"
