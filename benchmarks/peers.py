"""Tools that people use today, with our weights and captures: fastai as in the thesis, timm in a plain torch loop."""

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.network import IMAGE, LABELS
from benchmarks.record import console, cores
from trainer.model import Network

BATCH = 32


class Logits(nn.Module):
    """The network for captures that the loader has normalised: float [N, 3, S, S] -> logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Files(Dataset[Tensor]):
    """Captures, prepared by timm's evaluation transform."""

    def __init__(self, files: Sequence[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


Peer = Callable[[], float]
"""Function that measures captures per second once."""


def peers(network: Network, files: Sequence[Path]) -> dict[str, Peer | None]:
    """The peers by name; None for a peer that does not work here."""
    torch.set_num_threads(cores())
    mean, std = network.mean.flatten().tolist(), network.std.flatten().tolist()
    model = Logits(network).eval()
    by_name: dict[str, Peer | None] = {}
    by_name["fastai_predict"], by_name["fastai_batch"] = _fastai(model, mean, std, files)
    transform = _timm_transform(mean, std)
    by_name["torch_loader"] = lambda: _loop(model, transform, files)
    by_name["torch_compile"] = _compiled(model, transform, files)
    return by_name


def _fastai(model: nn.Module, mean: list[float], std: list[float], files: Sequence[Path]) -> tuple[Peer, Peer]:
    """`learn.predict` for each capture, and `learn.get_preds` over a test loader, both with fastai's defaults."""
    from fastai.vision.all import CrossEntropyLossFlat, ImageDataLoaders, Learner, Normalize, Resize, ResizeMethod

    blocks = ImageDataLoaders.from_lists(
        files[0].parent, [str(file) for file in files], [LABELS[i % len(LABELS)] for i in range(len(files))],
        item_tfms=Resize(IMAGE.size, method=ResizeMethod.Squish), batch_tfms=Normalize.from_stats(mean, std),
        valid_pct=0.2, seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    learner = Learner(blocks, model, loss_func=CrossEntropyLossFlat())

    def predict() -> float:
        began = time.perf_counter()
        with learner.no_bar(), learner.no_logging(), _quiet():
            for file in files:
                learner.predict(file)
        return len(files) / (time.perf_counter() - began)

    def batch() -> float:
        began = time.perf_counter()
        with learner.no_bar(), learner.no_logging(), _quiet():
            learner.get_preds(dl=learner.dls.test_dl(list(files)))
        return len(files) / (time.perf_counter() - began)

    return predict, batch


def _timm_transform(mean: list[float], std: list[float]) -> Any:
    from timm.data import create_transform

    return create_transform(
        (3, IMAGE.size, IMAGE.size), interpolation="bilinear", mean=tuple(mean), std=tuple(std), crop_pct=1.0,
        crop_mode="squash",
    )  # fmt: skip


def _loop(model: Callable[[Tensor], Tensor], transform: Any, files: Sequence[Path]) -> float:
    began = time.perf_counter()
    loader = DataLoader(Files(files, transform), batch_size=BATCH, num_workers=cores())
    with torch.inference_mode():
        for batch in loader:
            torch.softmax(model(batch), dim=1)
    return len(files) / (time.perf_counter() - began)


def _compiled(model: nn.Module, transform: Any, files: Sequence[Path]) -> Peer | None:
    """The same loop with torch.compile, which compiles before the measurement."""
    compiled = torch.compile(model, dynamic=False)
    full_batches = list(files)[: len(files) // BATCH * BATCH]
    try:
        with console.status("torch.compile"), torch.inference_mode():
            compiled(torch.zeros(BATCH, 3, IMAGE.size, IMAGE.size))
    except Exception as error:  # for example no C++ compiler; torch raises many kinds of errors
        console.print(f"torch.compile does not work here: {type(error).__name__}: {str(error).splitlines()[0]}")
        return None
    return lambda: _loop(compiled, transform, full_batches)


@contextlib.contextmanager
def _quiet() -> Any:
    """Hide the progress that fastai prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
