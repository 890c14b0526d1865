"""Twenty optimizer steps against torch.optim.AdamW: loss, gradient norm and rate of each step, weights after some."""

import json

import numpy as np
import pytest
from parity_support import arrays, initial_model, reference_folders

FOLDERS = [
    parameter
    for parameter in reference_folders("curve.npz", "hparams_and_curve.json")
    if "kind" not in json.loads((parameter.values[0] / "hparams_and_curve.json").read_text())  # an adapter's
]


def optim_of(hyper):
    """A reference's hyperparameters as the optim group has them."""
    from dscoder_exp.schema.config import OptimConfig

    cosine = hyper["schedule"].startswith("cosine")
    return OptimConfig(
        lr=hyper["lr"],
        betas=hyper["betas"],
        eps=hyper["eps"],
        weight_decay=hyper["weight_decay"],
        decay_norms=not hyper["no_decay_on_1d"],
        clip_norm=hyper["clip_grad_norm"],
        schedule="cosine" if cosine else "constant",
        warmup_ratio=0.0,
        warmup_steps=4 if cosine else 0,
        decay_ratio=1.0,
        min_lr_ratio=0.0,
    )


def whole_batch(ids):
    """Unpacked sequences, every token a target."""
    from dscoder_exp.data.batch import Batch

    labels = np.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:]
    return Batch(ids, labels, np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape), np.zeros_like(ids))


@pytest.mark.parametrize("folder", FOLDERS)
def test_curve(folder):
    from dscoder_exp.training.schedule import learning_rate
    from dscoder_exp.training.step import Step

    curve = arrays(folder, "curve.npz")
    model, hyper = initial_model(folder)
    optim, steps = optim_of(hyper), hyper["steps"]
    step = Step(model, optim, recompute="none")
    for number in range(1, steps + 1):
        batches = [whole_batch(ids.astype(np.int32)) for ids in curve["batches"][number - 1]]
        lr = learning_rate(optim, number, steps)
        result = step(batches, lr)
        assert lr == pytest.approx(curve["lr"][number - 1], abs=1e-12)
        assert result.loss == pytest.approx(curve["loss"][number - 1], abs=1e-4), f"step {number}"
        assert result.grad_norm == pytest.approx(curve["grad_norm_before_clip"][number - 1], rel=1e-3), f"step {number}"
        if (folder / f"weights_after_step{number}.npz").is_file():
            expected = arrays(folder, f"weights_after_step{number}.npz")
            for name, weight in model.masters.state():
                np.testing.assert_allclose(weight, expected[name], atol=1e-4, rtol=0, err_msg=f"step {number}: {name}")
