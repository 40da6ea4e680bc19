"""The proof of an engine before it serves: for the bundle's captures it must decide as the float32 graph did."""

import math
from dataclasses import dataclass

import numpy as np

from contract.bundle import Bundle
from contract.decisions import Decision, decide
from contract.errors import EngineError
from contract.imaging import RGBImage
from contract.names import one_line
from contract.novelty import Novelty, read_novelty
from contract.predictions import Predictions
from contract.proof import Expected, golden_expected, read_hidden
from contract.quality import measure
from contract.reproduction import MOST_CHANGED, Figures, failures, figures
from worker.engines.base import Engine, golden_batch, infer, infer_all

BATCH_ON_CORES, BATCH_ON_DEVICE = 8, 64
"""Batch sizes for the hidden captures: tuning tries these sizes anyway, and they are compiled already."""


@dataclass(frozen=True)
class Proof:
    """The figures of an engine on a bundle's golden captures and, where the bundle has them, on its hidden ones."""

    golden: Figures
    hidden: Figures | None


def prove(engine: Engine, bundle: Bundle, exact: Engine | None = None, *, with_hidden: bool = True) -> Proof:
    """Warm the engine up, and compare it with what the bundle expects for its golden and hidden captures.

    A bundle of an earlier release has only probabilities for its golden captures. The other decisions about them then
    come from `exact`, an engine in float32, if there is one.

    Raises EngineError, which names everything that is not reproduced: on golden captures nothing may differ by more
    than the manifest tolerates in this precision, on hidden ones at most 0.5 % of the decisions may differ.
    """
    manifest, novelty = bundle.manifest, read_novelty(bundle)
    captures, probabilities = golden_batch(bundle)
    answers = infer(engine, captures)
    if answers.probabilities.shape != probabilities.shape:
        raise EngineError(
            f"engine {engine.name} gives probabilities {answers.probabilities.shape}, the golden captures have "
            f"{probabilities.shape}; export bundle {bundle.digest[:12]} again"
        )
    expected = golden_expected(bundle)
    if exact is not None and not expected.decided:
        expected = _expected_from(exact, bundle, novelty, captures)
    golden = _compared(bundle, novelty, engine, captures, expected, answers)
    failed = failures(manifest, engine.precision, golden, "golden")
    hidden = None
    stored = read_hidden(bundle) if with_hidden else None
    if stored is not None and not failed:  # an engine that failed already needs no second comparison
        batch = BATCH_ON_CORES if engine.shares_cores else BATCH_ON_DEVICE
        answers = infer_all(engine, stored.captures, batch)
        hidden = _compared(bundle, novelty, engine, stored.captures, stored.expected, answers)
        failed = failures(manifest, engine.precision, hidden, "hidden", share=MOST_CHANGED)
    if failed:
        raise EngineError(
            f"engine {engine.name} ({engine.precision}) does not reproduce bundle {bundle.digest[:12]}: "
            f"{'; '.join(failed)}; {_next_step(engine)}"
        )
    return Proof(golden, hidden)


def prove_sizes(engine: Engine, bundle: Bundle, largest: int) -> None:
    """Compare the golden captures in batches of every power of two up to `largest`, and of the next one above it.

    An engine may compile each of these sizes for itself, when it comes for the first time. Afterwards no other size
    comes: what nobody has proved is not served. Raises EngineError.
    """
    captures, _ = golden_batch(bundle)
    novelty, expected = read_novelty(bundle), golden_expected(bundle)
    most = largest if engine.max_batch is None else min(largest, engine.max_batch)
    for size in (1 << power for power in range((most - 1).bit_length() + 1)):
        padded = np.resize(captures, (math.ceil(len(captures) / size) * size, *captures.shape[1:]))
        answers = infer_all(engine, padded, size).first(len(captures))
        compared = _compared(bundle, novelty, engine, captures, expected, answers)
        if failed := failures(bundle.manifest, engine.precision, compared, "golden"):
            raise EngineError(
                f"engine {engine.name} ({engine.precision}) does not reproduce bundle {bundle.digest[:12]} in batches "
                f"of {size}: {'; '.join(failed)}; {_next_step(engine)}"
            )


def _expected_from(exact: Engine, bundle: Bundle, novelty: Novelty | None, captures: RGBImage) -> Expected:
    """The predictions of an engine in float32, and the decisions that follow from them."""
    answers = infer(exact, captures)
    decisions = _decisions(bundle, novelty, captures, answers)
    return Expected.of(answers.probabilities, answers.embedding, answers.cam, decisions)


def _compared(
    bundle: Bundle,
    novelty: Novelty | None,
    engine: Engine,
    captures: RGBImage,
    expected: Expected,
    answers: Predictions,
) -> Figures:
    try:
        return figures(
            bundle.manifest, engine.precision, novelty, expected, answers.probabilities, answers.embedding, answers.cam,
            _decisions(bundle, novelty, captures, answers),
        )  # fmt: skip
    except (ValueError, IndexError) as error:
        raise EngineError(
            f"engine {engine.name}: what bundle {bundle.digest[:12]} expects, its reference and the outputs of its "
            f"graph have shapes that do not fit ({one_line(error)}); export the bundle again"
        ) from error


def _decisions(bundle: Bundle, novelty: Novelty | None, captures: RGBImage, answers: Predictions) -> list[Decision]:
    qualities = [measure(capture) for capture in captures]
    return decide(bundle.manifest, novelty, answers.probabilities, answers.embedding, qualities)


def _next_step(engine: Engine) -> str:
    if engine.precision == "float32":
        return "set SCREEN_ENGINE to another engine, or export the bundle again"
    return "set SCREEN_PRECISION=float32, or export the bundle again"
