"""Files that help to find out why a run's loss or gradients became NaN or infinite."""

from itertools import chain
from pathlib import Path

import numpy as np

from dscoder_exp.data.batch import FIELDS
from dscoder_exp.model.llama import Llama
from dscoder_exp.storage.json_files import write_json
from dscoder_exp.training.step import NotFinite


def write_diagnosis(output_dir: Path, model: Llama, error: NotFinite, step: int) -> Path:
    """Write OUTPUT_DIR/diagnosis and append its path to the error's message.

    numbers.json names the weights and gradients that hold NaN or infinity; batch-N.npz is micro batch N of this rank.

    Args:
        step: the optimizer step that failed, counted from 1.

    Returns:
        The directory.
    """
    directory = output_dir / "diagnosis"
    directory.mkdir(parents=True, exist_ok=True)
    model.masters.wait_all()
    values = {
        "step": step,
        "error": str(error),
        "weights_not_finite": [
            name
            for name, tensor in zip(chain(*model.names), chain(*model.groups), strict=True)
            if not np.isfinite(tensor.float().asnumpy()).all()  # numpy has no bf16
        ],
        "gradients_not_finite": error.gradients,
    }
    write_json(directory / "numbers.json", values)
    for number, batch in enumerate(error.batches):
        np.savez_compressed(directory / f"batch-{number}.npz", **{field: getattr(batch, field) for field in FIELDS})
    error.args = (f"{error}; see {directory}",)
    return directory
