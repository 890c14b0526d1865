"""Logits, loss and greedy ids against PyTorch and transformers, through the real loader."""

import numpy as np
import pytest
from parity_support import arrays, loaded, reference_folders

FOLDERS = reference_folders("reference.npz", "config.json")
TOLERANCE = 1e-4  # the reference's own fp32 and fp64 logits differ by 4e-6
PADDED_TOLERANCE = 2e-4


@pytest.mark.parametrize("folder", FOLDERS)
def test_logits(folder):
    reference = arrays(folder, "reference.npz")
    np.testing.assert_allclose(
        loaded(folder).logits(reference["input_ids"]), reference["logits"], atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_logits_beside_padding(folder, side):
    reference = arrays(folder, "reference.npz")
    mask = reference[f"attention_mask_{side}"]
    logits = loaded(folder).logits(reference["input_ids"], mask)
    real = mask > 0
    assert real.any()
    assert not real.all()
    np.testing.assert_allclose(logits[real], reference[f"logits_{side}"][real], atol=PADDED_TOLERANCE, rtol=0)


@pytest.mark.parametrize("folder", FOLDERS)
def test_loss(folder):
    reference = arrays(folder, "reference.npz")
    loss = loaded(folder).loss(reference["input_ids"], reference["labels"])
    assert loss == pytest.approx(float(reference["loss"]), abs=1e-5)


@pytest.mark.parametrize("folder", FOLDERS)
def test_greedy_ids(folder):
    reference = arrays(folder, "reference.npz")
    prompts = reference["greedy_prompt"]
    new = loaded(folder).generate(prompts, max_new_tokens=64, ignore_eos=True)
    assert new == reference["greedy_ids"][:, prompts.shape[1] :].tolist()


@pytest.mark.parametrize("folder", reference_folders("packed.npz", "config.json"))
def test_packed_documents_do_not_see_each_other(folder):
    packed = arrays(folder, "packed.npz")
    model = loaded(folder).model
    ids, positions, documents = (packed[n].astype(np.int32) for n in ("input_ids", "position_ids", "document_ids"))
    real = documents >= 0
    logits = model.logits(model.inputs(ids, positions, documents)).reshape(*ids.shape, -1)[real]
    expected = packed["logits"].reshape(logits.shape)  # holds the documents' positions alone
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)
