"""`screen bundle verify|compile|show` as a user calls it."""

import json
import shutil
from pathlib import Path

import pytest

from contract.bundle import Bundle
from contract.errors import ExitCode
from tests.support.archives import write_archive
from tests.support.commands import Environment


@pytest.fixture
def screen(tmp_path: Path) -> Environment:
    return Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "redis://127.0.0.1:1/0")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_verify_says_how_an_engine_answers(screen: Environment, bundle: Bundle, engine: str) -> None:
    done = screen.screen("bundle", "verify", bundle.path, "--engine", engine)
    assert (done.code, done.out.strip()) == (ExitCode.OK, bundle.digest)
    assert "4 of 4 golden captures keep their label, largest difference in probability" in done.err
    assert "captures/s" in done.err


def test_verify_compares_a_whole_archive_with_float32(screen: Environment, bundle: Bundle, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", {"P1": "Pro", "P2": "Benign"}, 5)
    (archive / "P1" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    for junk in ("P1/._0.jpg", "@eaDir/0.jpg", "P2/.ipynb_checkpoints/0.jpg"):
        (archive / junk).parent.mkdir(exist_ok=True)
        (archive / junk).write_bytes(b"no capture, as a submit knows")
    done = screen.screen("bundle", "verify", bundle.path, "--captures", archive, "--json")
    assert done.code == ExitCode.OK
    agreement = done.json["agreement"]
    assert (agreement["captures"], agreement["rejected"], agreement["cases"]) == (10, 1, 2)
    assert (agreement["equal"], agreement["verdicts_changed"]) == (10, 0)
    assert (agreement["novel_changed"], agreement["excluded_changed"], agreement["good_enough"]) == (0, 0, True)
    assert agreement["verdicts"] == [{"all": 1, "benign": 1}] * 2
    assert "verdicts here: 1 all, 1 benign; in float32: 1 all, 1 benign" in done.err
    assert "0 of 2 verdicts differ" in done.err
    assert "10 keep their label (100.00%" in done.err


def test_verify_fails_where_no_engine_reproduces_the_golden_captures(
    screen: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    from contract.bundle import EXPECTED, write_manifest

    wrong = Path(shutil.copytree(bundle.path, tmp_path / "wrong.bundle"))
    golden = json.loads((wrong / EXPECTED).read_text())
    for one in golden["captures"]:
        one["probabilities"] = one["probabilities"][::-1]
    (wrong / EXPECTED).write_text(json.dumps(golden))
    write_manifest(wrong, bundle.manifest)
    done = screen.screen("bundle", "verify", wrong)
    assert done.code == ExitCode.SOME_ENDED_BADLY
    assert "does not reproduce bundle" in done.err
    assert done.out == ""


def test_plans_are_compiled_ahead_for_devices_that_are_not_here(screen: Environment, bundle: Bundle) -> None:
    command = ("bundle", "compile", bundle.path, "--engine", "tensorrt", "--target", "sm80,sm86", "--batch-size", 16)
    done = screen.screen(*command)
    assert done.code == ExitCode.OK, done.err
    made = [Path(line) for line in done.out.split()]
    assert ["sm80" in made[0].name, "sm86" in made[1].name] == [True, True]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in made)
    assert "captures UINT8 [-1, 64, 64, 3] -> " in done.err
    again = screen.screen(*command)
    assert again.out == done.out
    assert again.err.count("was there already") == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--engine", "tensorrt", "--target", "sm1"), "does not build for sm1; it knows"),
        (("--engine", "openvino", "--target", "sm80"), "--target is for tensorrt"),
        (("--engine", "tensorrt", "--precision", "float16", "--target", "sm80"), "half_graph = true"),
    ],
)
def test_what_cannot_be_compiled_is_said_with_the_next_step(
    screen: Environment, bundle: Bundle, more: tuple[str, ...], said: str
) -> None:
    done = screen.screen("bundle", "compile", bundle.path, *more)
    assert done.code in (ExitCode.USAGE, ExitCode.SOME_ENDED_BADLY)
    assert said in done.err


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a device to compile for")
def test_without_a_device_the_target_must_be_named(screen: Environment, bundle: Bundle) -> None:
    done = screen.screen("bundle", "compile", bundle.path, "--engine", "tensorrt")
    assert done.code == ExitCode.USAGE
    assert "--target sm80,sm86" in done.err


def test_openvino_compiles_into_its_cache(screen: Environment, bundle: Bundle, tmp_path: Path) -> None:
    done = screen.screen("bundle", "compile", bundle.path, "--engine", "openvino")
    assert done.code == ExitCode.OK
    assert list((tmp_path / "cache" / "openvino").glob(f"{bundle.digest[:12]}-*.plan"))


def test_with_trusted_keys_only_a_signed_bundle_is_used(screen: Environment, bundle: Bundle, tmp_path: Path) -> None:
    own = Path(shutil.copytree(bundle.path, tmp_path / "own.bundle"))
    archive = write_archive(tmp_path / "archive", {"P1": "Pro"}, 1)
    public = screen.screen("bundle", "keygen", tmp_path / "lab.key").out.strip()
    (tmp_path / "trusted").write_text(public)
    trusting = {"SCREEN_TRUSTED_KEYS": str(tmp_path / "trusted")}
    commands = (("bundle", "verify", own), ("submit", archive, "--bundle", own), ("run", archive, "--bundle", own))
    for command in commands:
        done = screen.screen(*command, **trusting)
        assert (done.code, done.out) == (ExitCode.USAGE, "")
        assert "own.bundle: has no signature; SCREEN_TRUSTED_KEYS is set" in done.err
    assert screen.screen("bundle", "sign", own, "--key", tmp_path / "lab.key").out.strip() == public
    done = screen.screen("bundle", "verify", own, **trusting)
    assert (done.code, done.out.strip()) == (ExitCode.OK, bundle.digest)
    assert f"signed with the trusted key {public}" in done.err


def test_verify_ends_with_a_sentence_where_its_engine_takes_too_long(
    screen: Environment, bundle: Bundle, tmp_path: Path
) -> None:
    from tests.support.hostile_bundles import HOSTILE

    slow = HOSTILE["a graph that takes hours"].make(bundle.path, tmp_path / "slow.bundle")
    done = screen.screen("bundle", "verify", slow, SCREEN_OPEN_SECONDS="4")
    assert done.code == ExitCode.USAGE
    assert "screen: the bundle's engine is not open after SCREEN_OPEN_SECONDS=4" in done.err
