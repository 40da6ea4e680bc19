"""A worker whose engine computes nothing: `python -m benchmarks.fake_worker MILLISECONDS --name NAME`.

The engine sleeps for MILLISECONDS per capture (0 is allowed) and always gives the same answer. Everything else is the
real worker. The engine exists only here and not in the installed package: no setting makes a real worker use it.
"""

import sys
import time
from pathlib import Path

import numpy as np

from contract.bundle import EXPECTED, GOLDEN, MODEL, Bundle, Calibration, GoldenCapture, GoldenSet, Manifest
from contract.bundle import write_manifest as write
from contract.case_policy import CasePolicy
from contract.imaging import ImageSpec, RGBImage
from contract.predictions import Predictions
from worker.engines import registry
from worker.engines.base import EngineOptions, Pending

ANSWER = (0.97, 0.01, 0.01, 0.01)
SIDE = 64
CAM = 10
"""Side of the activation map of EfficientNet-B3 at 300 px, so that rows are as long as real ones."""


class FakeEngine:
    """See `worker.engines.base.Engine`. The engine has its own clock for sleeping batches, like a device."""

    name = "fake"
    device = "none"
    shares_cores = False
    depth = 2
    max_batch: int | None = 256
    milliseconds = 0.0

    def __init__(self, bundle: Bundle, precision: str, options: EngineOptions) -> None:
        self.precision = precision
        self._free_at = 0.0

    @classmethod
    def precisions(cls, bundle: Bundle) -> list[str]:
        return ["float32"]

    def start(self, batch: RGBImage) -> Pending:
        rows = len(batch)
        self._free_at = max(self._free_at, time.perf_counter()) + rows * self.milliseconds / 1e3
        ready_at = self._free_at

        def fetch() -> Predictions:
            time.sleep(max(0.0, ready_at - time.perf_counter()))
            return Predictions(
                np.tile(np.array(ANSWER, np.float32), (rows, 1)),
                np.zeros((rows, len(ANSWER), CAM, CAM), np.float32),
                np.zeros((rows, 8), np.float32),
            )

        return fetch

    def close(self) -> None:
        pass


def fake_bundle(folder: Path, capture: bytes) -> Bundle:
    """A bundle without a network, which only the fake engine can reproduce."""
    if (folder / "bundle.json").exists():
        return Bundle.open(folder)
    (folder / GOLDEN).mkdir(parents=True)
    (folder / MODEL).write_bytes(b"\x08\x0a\x3a\x00")  # a graph of ONNX with nothing in it
    (folder / GOLDEN / "000.jpg").write_bytes(capture)
    golden = GoldenSet(captures=[GoldenCapture(file="000.jpg", probabilities=list(ANSWER))])
    (folder / EXPECTED).write_text(golden.model_dump_json(), encoding="utf-8")
    manifest = Manifest(
        name="fake",
        notice="No network: every capture gets the same answer. Only for benchmarks.",
        labels=["Benign", "Early", "Pre", "Pro"],
        benign_label="Benign",
        image=ImageSpec(size=SIDE),
        calibration=Calibration(temperature=1.0),
        case_policy=CasePolicy(benign_at_most=0.4, all_at_least=0.6),
        files={MODEL: ""},
    )
    return write(folder, manifest)


def main() -> None:
    FakeEngine.milliseconds = float(sys.argv[1])
    name = sys.argv[sys.argv.index("--name") + 1]
    registry.ENGINES.clear()
    registry.ENGINES["fake"] = "benchmarks.fake_worker:FakeEngine"
    from benchmarks import fake_worker  # imports this file as the module that the registry names

    fake_worker.FakeEngine.milliseconds = FakeEngine.milliseconds
    from worker.app import app

    app.worker_main(["worker", "--hostname", f"{name}@%h", "--loglevel", "info"])


if __name__ == "__main__":
    main()
