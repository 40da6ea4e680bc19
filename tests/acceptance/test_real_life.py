"""From drawings to verdicts: a bundle is trained, and drawings of other patients go through the worker with every
engine and precision that this machine has, and in emulated bfloat16. A network whose first stage bfloat16 spoils made
every capture novel that way, while all golden captures kept their probabilities.
"""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from contract.bundle import Bundle, Outputs  # noqa: E402
from contract.case_rule import CaseCounts, JudgedCapture, judge  # noqa: E402
from contract.errors import EngineError, ExitCode  # noqa: E402
from contract.imaging import decode  # noqa: E402
from contract.novelty import read_novelty  # noqa: E402
from contract.outcomes import CaptureRef, ChunkOutcome, Screened  # noqa: E402
from contract.states import Verdict  # noqa: E402
from tests.support.bfloat16 import EmulatedBfloat16Engine  # noqa: E402
from tests.support.commands import Environment  # noqa: E402
from tests.support.discs import LABELS, draw_discs  # noqa: E402
from trainer.commands.train import train  # noqa: E402
from worker.engines import registry  # noqa: E402
from worker.engines.base import EngineOptions, NotUsable, infer_all  # noqa: E402
from worker.engines.registry import ENGINES, load, open_engine  # noqa: E402
from worker.pipeline import Pipeline, Work  # noqa: E402

RECIPE = """
name = "small"
notice = "knows only discs"
[model]
architecture = "test_efficientnet"
initial_weights = "none"
stain_normalisation = "density"
[image]
size = 96
[data]
validation = 0.3
test = 0.1
[training]
batch_size = 32
ema_decay = 0.9
seed = 1
[[training.phases]]
stages = [{size = 64, epochs = 2}, {size = 96, epochs = 2}]
learning_rate = 3e-3
warm_up = 0.2
[augment]
scale = 0.02
[export]
half_graph = false
weights = false
audit_captures = 32
[case]
exclude = ["out_of_focus", "empty_field", "novel"]
"""
MOST_NOVEL = 0.03
PATIENTS, CAPTURES = 60, 16
OTHERS, CAPTURES_OF_OTHERS = 8, 10
pytestmark = pytest.mark.timeout(900)  # the first test trains; a minute on two idle cores


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small network of the kind that bfloat16 spoils, trained from scratch on discs."""
    folder = tmp_path_factory.mktemp("trained")
    recipe, drawings = folder / "recipe.toml", folder / "drawings"
    recipe.write_text(RECIPE)
    drawings.mkdir()
    draw_discs(drawings, PATIENTS, CAPTURES)
    arguments = [drawings, "--out", folder / "small.bundle", "--recipe", recipe, "--cache", folder / "cache"]
    done = CliRunner().invoke(train, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return Bundle.open(folder / "small.bundle")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of patients that the bundle was not trained on; a patient's number tells her label."""
    folder = tmp_path_factory.mktemp("others")
    draw_discs(folder, OTHERS, CAPTURES_OF_OTHERS, seed=7)
    (folder / "labels.csv").unlink()
    return folder


def screened(bundle: Bundle, archive: Path, options: EngineOptions) -> tuple[str, list[tuple[str, Screened]]]:
    """The archive through the worker's pipeline in this process: engine and precision, and (patient, capture) each."""
    files = sorted(archive.rglob("*.jpg"))
    paths = [file.relative_to(archive) for file in files]
    captures = [
        CaptureRef(number, str(path).encode(), file.stat().st_size, file.stat().st_mtime_ns)
        for number, (path, file) in enumerate(zip(paths, files, strict=True))
    ]
    engine, _ = open_engine(bundle, options)
    work = [Work(str(archive).encode(), captures)]
    with ThreadPoolExecutor(2) as decoders:
        pipeline = Pipeline(bundle.manifest, engine, decoders, 8, novelty=read_novelty(bundle))
        ((_, outcome),) = list(pipeline.run(lambda: work.pop() if work else None))
    engine.close()
    assert isinstance(outcome, ChunkOutcome)
    assert len(outcome.screened) == len(captures)
    return outcome.engine, [(paths[one.capture_id].parts[0], one) for one in outcome.screened]


def assert_known_and_right(bundle: Bundle, found: list[tuple[str, Screened]]) -> None:
    novel = sum(capture.novelty is not None and capture.novelty > 1 for _, capture in found)
    assert novel <= MOST_NOVEL * len(found), f"{novel} of {len(found)} captures are novel"
    for patient in sorted({patient for patient, _ in found}):
        captures = [capture for whose, capture in found if whose == patient]
        result = judge(
            [JudgedCapture(one.probabilities, None, [mark.code for mark in one.marks]) for one in captures],
            policy=bundle.manifest.case_policy,
            labels=bundle.manifest.labels,
            benign_label=bundle.manifest.benign_label,
            counts=CaseCounts(len(captures), len(captures), 0, 0),
        )
        assert result.verdict == wanted(patient), f"{patient}: {result}"


def wanted(patient: str) -> Verdict:
    return Verdict.BENIGN if LABELS[int(patient[1:]) % 4] == "Benign" else Verdict.ALL


def test_screen_run_with_default_settings_knows_other_patients_and_is_right(
    trained: Bundle, others: Path, tmp_path: Path
) -> None:
    alone = Environment(tmp_path, f"sqlite:///{tmp_path / 'screening.db'}", "")
    variables = {name: value for name, value in alone.variables.items() if name != "SCREEN_REDIS_URL"}
    done = subprocess.run(
        [alone.python, "-m", "producer.cli", "run", others, "--bundle", trained.path],
        cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    cases = alone.screen("report", 1, "--json").json["cases"]
    assert len(cases) == OTHERS
    assert sum(case["novel"] for case in cases) <= MOST_NOVEL * OTHERS * CAPTURES_OF_OTHERS
    assert [(case["patient"], case["verdict"]) for case in cases if case["verdict"] != wanted(case["patient"])] == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_and_precision_that_serves_here_knows_other_patients_and_is_right(
    trained: Bundle, others: Path, tmp_path: Path, name: str, precision: str
) -> None:
    try:
        precisions = load(name).precisions(trained)
    except NotUsable as reason:
        pytest.skip(str(reason))
    if precision not in precisions:
        pytest.skip(f"{name} does not compute in {precision} here")
    options = EngineOptions(name, precision, tmp_path)
    if precision != "float32" and not reproduces(trained, options):
        pytest.skip(f"{name} refuses to serve in {precision}: it does not reproduce the bundle")
    serving, found = screened(trained, others, options)
    assert serving == f"{name}/{precision}"
    assert_known_and_right(trained, found)


def reproduces(bundle: Bundle, options: EngineOptions) -> bool:
    try:
        engine, _ = open_engine(bundle, options)
    except EngineError:
        return False
    engine.close()
    return True


def test_emulated_bfloat16_serves_only_if_it_knows_other_patients_and_is_right(
    trained: Bundle, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ENGINES", {"emulated": "tests.support.bfloat16:EmulatedBfloat16Engine"})
    _, found = screened(trained, others, EngineOptions("auto", "auto", tmp_path))
    assert_known_and_right(trained, found)


def test_emulated_bfloat16_without_a_first_stage_in_float32_makes_captures_of_this_bundle_novel(
    trained: Bundle, others: Path, tmp_path: Path
) -> None:
    """Else the test above would pass whatever an engine proves."""
    known = read_novelty(trained)
    assert known is not None
    plain = replace(trained, manifest=trained.manifest.model_copy(update={"outputs": Outputs()}))
    engine = EmulatedBfloat16Engine(plain, "bfloat16", EngineOptions("emulated", "bfloat16", tmp_path))
    captures = np.stack(
        [decode(file.read_bytes(), trained.manifest.image).pixels for file in sorted(others.rglob("*.jpg"))]
    )
    assert (known.of(infer_all(engine, captures, 8).embedding) > 1).mean() > 2 * MOST_NOVEL
