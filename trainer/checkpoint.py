"""What a killed training run needs to go on as if nothing had happened: one file, written whole or not at all.

It holds no state of random generators: every epoch seeds its own from (seed, epoch), so it begins the same either way.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contract.errors import SettingsError
from contract.files import private_folder

FILE = "last.pt"
FORMAT = 2


@dataclass
class Checkpoint:
    """State after `epochs_done` epochs. `identity` is the digest of configuration, data and split.

    `model` and `averaged` are state dicts of `trainer.model.Network` (`averaged` is None without averaging); `best` is
    the state dict of the epoch that did best on validation, of averaged weights if there are any; `best_epoch` is its
    place in `history`, from 1. `optimization` belongs to `phase`. Training has taken `seconds` so far.
    """

    identity: str
    epochs_done: int
    phase: int
    model: dict[str, Any]
    averaged: dict[str, Any] | None
    optimization: dict[str, Any]
    precision: dict[str, Any]
    best: dict[str, Any]
    best_epoch: int
    history: list[dict[str, Any]]
    finders: list[dict[str, Any]]
    seconds: float


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a kill at any moment leaves the previous checkpoint or this one."""
    private_folder(folder)
    partial = folder / f"{FILE}.partial"
    with partial.open("wb") as stream:
        torch.save({"format": FORMAT, **vars(checkpoint)}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / FILE)


def load(folder: Path, identity: str) -> Checkpoint | None:
    """The checkpoint in `folder`, or None if there is none.

    Raises SettingsError if it belongs to another configuration, data or split, or cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    advice = "name another folder with --checkpoint, or start from scratch with --no-resume"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state_format = state.pop("format")
        checkpoint = Checkpoint(**state)
    except Exception as error:
        raise SettingsError(f"checkpoint {file}: cannot be read ({type(error).__name__}); {advice}") from error
    if state_format != FORMAT or checkpoint.identity != identity:
        raise SettingsError(f"checkpoint {file}: belongs to another configuration, data or split; {advice}")
    return checkpoint
