"""How an engine is proved before it serves: it must decide about the bundle's captures as the float32 graph did."""

from dataclasses import dataclass

from contract.bundle import Bundle
from contract.decisions import Decision, decide
from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.novelty import Novelty, read_novelty
from contract.proof import Expected, golden_expected, read_hidden
from contract.quality import measure
from contract.reproduction import MOST_CHANGED, Figures, failures, figures
from worker.engines.base import Engine, Predictions, golden_batch, infer, infer_all

BATCH_ON_CORES, BATCH_ON_DEVICE = 8, 64
"""Captures in a batch of the hidden ones: sizes that tuning tries anyway, and that are compiled already."""


@dataclass(frozen=True)
class Proof:
    """How an engine answers to a bundle's golden captures and, where the bundle has them, to its hidden ones."""

    golden: Figures
    hidden: Figures | None


def prove(engine: Engine, bundle: Bundle, exact: Engine | None = None, *, with_hidden: bool = True) -> Proof:
    """Warm the engine up and hold it against what the bundle says of its golden and hidden captures.

    A bundle that says nothing but probabilities of its golden captures was made by an earlier release: what else is
    decided about them is taken from `exact`, an engine in float32, if there is one.

    Raises EngineError, which names all that is not reproduced: on golden captures nothing may differ by more than the
    manifest tolerates in this precision, on hidden ones at most 0.5 % of the decisions.
    """
    manifest, known = bundle.manifest, read_novelty(bundle)
    captures, probabilities = golden_batch(bundle)
    answers = infer(engine, captures)
    if answers.probabilities.shape != probabilities.shape:
        raise EngineError(
            f"engine {engine.name} gives probabilities {answers.probabilities.shape}, the golden captures have "
            f"{probabilities.shape}; export bundle {bundle.digest[:12]} again"
        )
    expected = golden_expected(bundle)
    if exact is not None and not expected.decided:
        expected = _from(exact, bundle, known, captures)
    golden = _held(bundle, known, engine, captures, expected, answers)
    failed = failures(manifest, engine.precision, golden, "golden")
    hidden = None
    stored = read_hidden(bundle) if with_hidden else None
    if stored is not None and not failed:  # an engine that fails already is not kept busy
        batch = BATCH_ON_CORES if engine.shares_cores else BATCH_ON_DEVICE
        answers = infer_all(engine, stored.captures, batch)
        hidden = _held(bundle, known, engine, stored.captures, stored.expected, answers)
        failed = failures(manifest, engine.precision, hidden, "hidden", share=MOST_CHANGED)
    if failed:
        raise EngineError(
            f"engine {engine.name} ({engine.precision}) does not reproduce bundle {bundle.digest[:12]}: "
            f"{'; '.join(failed)}; {_next_step(engine)}"
        )
    return Proof(golden, hidden)


def _from(exact: Engine, bundle: Bundle, known: Novelty | None, captures: RGBImage) -> Expected:
    """What an engine in float32 answers, and what follows from it."""
    answers = infer(exact, captures)
    decisions = _decisions(bundle, known, captures, answers)
    return Expected.of(answers.probabilities, answers.embedding, answers.cam, decisions)


def _held(
    bundle: Bundle, known: Novelty | None, engine: Engine, captures: RGBImage, expected: Expected, answers: Predictions
) -> Figures:
    return figures(
        bundle.manifest, engine.precision, known, expected, answers.probabilities, answers.embedding, answers.cam,
        _decisions(bundle, known, captures, answers),
    )  # fmt: skip


def _decisions(bundle: Bundle, known: Novelty | None, captures: RGBImage, answers: Predictions) -> list[Decision]:
    qualities = [measure(capture) for capture in captures]
    return decide(bundle.manifest, known, answers.probabilities, answers.embedding, qualities)


def _next_step(engine: Engine) -> str:
    if engine.precision == "float32":
        return "set SCREEN_ENGINE to another engine, or export the bundle again"
    return "set SCREEN_PRECISION=float32, or export the bundle again"
