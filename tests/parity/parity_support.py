"""Reference numbers of another implementation: every folder that holds some, and its model loaded once."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def reference_folders(*files: str) -> list:
    """The folders in tests/reference and $DSCODER_PARITY_DIR that hold all of `files`, as named test parameters."""
    roots = [REPOSITORY / "tests" / "reference"]
    if extra := os.environ.get("DSCODER_PARITY_DIR"):
        roots.append(Path(extra))
    folders = {folder.name: folder for root in roots for folder in sorted(root.iterdir()) if folder.is_dir()}
    found = [folder for folder in folders.values() if all((folder / file).is_file() for file in files)]
    return [pytest.param(folder, id=folder.name) for folder in found]


def arrays(folder: Path, file: str) -> dict[str, np.ndarray]:
    with np.load(folder / file) as content:
        return dict(content)


@cache
def loaded(folder: Path):
    """The folder's model, through the loader that users have."""
    from dscoder_exp import load

    return load(str(folder))


@cache
def trained(folder: Path):
    """The folder's model, as training has it."""
    return to_train(folder)


def to_train(folder: Path, precision: str = "fp32"):
    from dscoder_exp.device.start import start_device
    from dscoder_exp.model.build import build
    from dscoder_exp.weights.source import open_weights

    start_device("cpu")
    source = open_weights(str(folder))
    return build(source.config, source, seed=0, device="cpu", precision=precision)


def initial_model(folder: Path):
    """A fresh model of a training curve's starting point, to be trained."""
    hyper = json.loads((folder / "hparams_and_curve.json").read_text())
    return to_train(folder.parent / Path(hyper["init_checkpoint"]).name), hyper
