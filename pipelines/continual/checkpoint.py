"""State of an unfinished job in its work folder, to continue from after a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

FILE = "finetune.pt"


def save_state(work: Path, trainable: dict[str, torch.nn.Parameter], state: dict[str, Any]) -> None:
    """Write weights and ``state``; a kill in between leaves the older file whole."""
    work.mkdir(parents=True, exist_ok=True)
    weights = {name: parameter.detach() for name, parameter in trainable.items()}
    torch.save({**state, "weights": weights}, work / f"{FILE}.partial")
    (work / f"{FILE}.partial").replace(work / FILE)


def load_state(work: Path, trainable: dict[str, torch.nn.Parameter]) -> dict[str, Any] | None:
    """Put saved weights into ``trainable`` and return the rest of the state, or None when there is none."""
    if not (work / FILE).is_file():
        return None
    state: dict[str, Any] = torch.load(work / FILE, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(state["weights"][name])
    return state
