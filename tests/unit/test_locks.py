"""The locks of requirements/ go together: the trainer's for the CPU is the tested one without GPU and tests."""

import re
import tomllib

import pytest

from tests.support.commands import REPOSITORY

GPU = re.compile(r"nvidia-|cuda-|triton")


def pins(lock: str) -> dict[str, str]:
    """Versions by name, as far as they hold on every system."""
    text = (REPOSITORY / "requirements" / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", text, re.MULTILINE))


def extra(name: str) -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.split(r"[\[>=;]", one)[0] for one in project["optional-dependencies"][name]}


@pytest.mark.parametrize("lock", ["train-cpu.txt", "torch-libraries.txt"])
def test_what_is_installed_without_a_gpu_is_what_is_tested(lock):
    tested = pins("dev.txt")
    assert {name: tested.get(name) for name in pins(lock)} == pins(lock)


def test_the_trainers_lock_holds_trainer_and_worker_and_neither_gpu_nor_tests():
    held = pins("train-cpu.txt")
    assert {*pins("base.txt"), *extra("train"), *extra("lite")} <= held.keys()
    assert [name for name in held if GPU.match(name)] == []
    assert held.keys() & {"atheris", "fastai", "hypothesis", "mypy", "pytest", "ruff", "uv"} == set()


def test_torchs_libraries_are_nothing_but_libraries():
    held = pins("torch-libraries.txt")
    assert held
    assert [name for name in held if not GPU.match(name)] == []
