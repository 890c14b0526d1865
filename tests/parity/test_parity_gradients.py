"""Every gradient against PyTorch's, with and without recomputing."""

import numpy as np
import pytest
from parity_support import arrays, reference_folders, trained

TOLERANCE = 1e-4  # of each gradient's norm


def as_batch(ids, labels, positions, documents):
    """A reference's batch, whose labels are aligned with the ids as in transformers."""
    from dscoder_exp.data.batch import Batch

    targets = np.full_like(labels, -100)
    targets[:, :-1] = labels[:, 1:]
    return Batch(*(np.asarray(part, np.int32) for part in (ids, targets, positions, documents)))


def assert_gradients_equal(model, batch, recompute, expected, loss):
    from dscoder_exp.training.gradients import Backpropagation

    backpropagation = Backpropagation(model, recompute)
    total = backpropagation.start()
    backpropagation.add(total, batch, on_bucket=lambda number: None)
    assert float(total.loss.asnumpy()[0]) / total.loss_tokens == pytest.approx(float(loss), abs=1e-5)
    found = {bucket.names[0]: total.sums[number] for number, bucket in enumerate(model.masters.buckets)}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        difference = gradient.asnumpy() / total.loss_tokens - expected[name]
        relative = np.linalg.norm(difference) / np.linalg.norm(expected[name])
        assert relative < TOLERANCE, f"{name}: {relative:.1e}"


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("folder", reference_folders("reference.npz", "grads.npz", "config.json"))
def test_gradients(folder, recompute):
    reference = arrays(folder, "reference.npz")
    ids = reference["input_ids"]
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    batch = as_batch(ids, reference["labels"], positions, np.zeros_like(ids))
    assert_gradients_equal(trained(folder), batch, recompute, arrays(folder, "grads.npz"), reference["loss"])


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("folder", reference_folders("packed.npz", "packed_grads.npz", "config.json"))
def test_gradients_of_packed_documents(folder, recompute):
    packed = arrays(folder, "packed.npz")
    batch = as_batch(packed["input_ids"], packed["labels"], packed["position_ids"], packed["document_ids"])
    assert_gradients_equal(trained(folder), batch, recompute, arrays(folder, "packed_grads.npz"), packed["loss"])
