"""The locks of requirements/ go together: the trainer's for the CPU is the tested one without GPU and tests."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

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


@pytest.mark.parametrize("lock", ["base.txt", "check.txt", "dev.txt", "train-cpu.txt"])
def test_the_build_backend_is_locked_beside_every_lock(lock: str) -> None:
    """pip installs both files at once: a package that is in both has one version."""
    build, held = pins("build.txt"), pins(lock)
    assert {name: build[name] for name in build.keys() & held.keys()} == {
        name: held[name] for name in build.keys() & held.keys()
    }
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    for requirement in map(Requirement, project["build-system"]["requires"]):
        assert requirement.specifier.contains(build[requirement.name])


LOCKS = sorted(file.name for file in (REPOSITORY / "requirements").glob("*.txt") if file.name != "gpu-only.txt")
"""gpu-only.txt lists what another lock leaves out."""


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_every_lock_has_a_hash(lock: str) -> None:
    text = (REPOSITORY / "requirements" / lock).read_text(encoding="utf-8")
    packages = [one for one in re.split(r"\n(?=\w)", text.strip()) if not one.startswith("#")]
    assert packages
    assert [one for one in packages if "--hash=sha256:" not in one] == []


def test_nothing_is_built_with_what_pip_fetches_by_itself() -> None:
    """An isolated build takes the newest build backend, and asks for no hash."""
    pages = [REPOSITORY / "Makefile"]
    pages += [page for places in ("*.md", "docs/*.md", "deploy/**/*") for page in REPOSITORY.glob(places)]
    lines = [line for page in pages if page.is_file() for line in page.read_text(encoding="utf-8").splitlines()]
    builds = [line for line in lines if re.search(r"pip (install|wheel)\b.* (-e )?\.( |$|`)", line)]
    assert len(builds) >= 6
    assert [line for line in builds if "--no-build-isolation" not in line] == []
