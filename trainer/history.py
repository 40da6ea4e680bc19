"""What is recorded of each epoch, how two epochs are compared, and where the record is written."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, log_loss


@dataclass(frozen=True)
class Epoch:
    """One line of the history.

    `training_accuracy` is measured on augmented, unmixed batches; None if all were mixed. `captures_per_second` is the
    speed of training only, waiting for data included; `waited` is the share of that time spent waiting.
    """

    epoch: int
    phase: int
    frozen: bool
    size: int
    learning_rate: float
    loss: float
    training_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    validation_macro_f1: float
    captures_per_second: float
    waited: float


def score(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """The validation figures of one epoch."""
    labels = np.arange(probabilities.shape[1])
    if not np.isfinite(probabilities).all():  # a network that has diverged gets the lowest score
        return {"validation_loss": math.inf, "validation_accuracy": 0.0, "validation_macro_f1": 0.0}
    called = probabilities.argmax(axis=1)
    return {
        "validation_loss": float(log_loss(targets, probabilities, labels=labels)),
        "validation_accuracy": float(accuracy_score(targets, called)),
        "validation_macro_f1": float(f1_score(targets, called, labels=labels, average="macro", zero_division=0)),
    }


def rank(row: dict[str, Any]) -> tuple[float, float]:
    """The value that epochs are compared by: macro F1 first; if that is equal, the smaller loss is better."""
    return row["validation_macro_f1"], -row["validation_loss"]


def patience_is_over(
    history: list[dict[str, Any]], phase: int, size: int, best_epoch: int, patience: int | None
) -> bool:
    """Whether the last stage of this phase has gone `patience` epochs without a new best one."""
    if patience is None:
        return False
    epochs = sum(row["phase"] == phase + 1 and row["size"] == size for row in history)
    return min(epochs, len(history) - best_epoch) >= patience


def describe(row: Epoch, epochs: int) -> str:
    """The plain line that is logged for each epoch."""
    return (
        f"epoch {row.epoch}/{epochs} size {row.size} loss {row.loss:.4f} val_loss {row.validation_loss:.4f} "
        f"val_accuracy {row.validation_accuracy:.4f} val_macro_f1 {row.validation_macro_f1:.4f} "
        f"captures/s {row.captures_per_second:.1f}"
    )


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """metrics.csv: one line per epoch."""
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(Epoch.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(history)
