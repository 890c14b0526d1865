"""Generation with a KV cache gives the same ids as running the whole sequence through the model at each step."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).parents[1] / "reference" / "tiny_gqa"


@pytest.fixture(scope="module")
def llm():
    from dscoder_exp import load

    return load(str(REFERENCE))


def without_cache(llm, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(llm.logits([ids])[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("length", [1, 3, 127, 128, 129, 200])
def test_greedy_ids_equal_those_without_a_cache(llm, length):
    """Lengths around 128, above which a prompt takes a second prefill chunk; prompts may contain the padding's id 0."""
    prompt = np.random.default_rng(length).integers(0, 128, length).tolist()
    assert llm.generate([prompt], 6, ignore_eos=True) == [without_cache(llm, prompt, 6)]


def test_an_earlier_longer_prompt_has_no_effect(llm):
    rng = np.random.default_rng(0)
    short, long = rng.integers(0, 128, 5).tolist(), rng.integers(0, 128, 150).tolist()
    alone = llm.generate([short], 8, ignore_eos=True)
    llm.generate([long], 40, ignore_eos=True)
    assert llm.generate([short], 8, ignore_eos=True) == alone


def test_generation_stops_after_any_of_the_stop_tokens(llm):
    prompt = [5, 9, 33]
    ids = llm.generate([prompt], 12, ignore_eos=True)[0]
    never = next(token for token in range(128) if token not in ids)
    for stop in ids[4], ids[7]:
        until = ids[: ids.index(stop) + 1]
        assert llm.generate([prompt], 12, ignore_eos=True, stop_token_ids=[never, stop]) == [until]


def test_an_answer_ends_with_each_token_that_the_models_files_name(llm, tmp_path):
    """In config.json, and in generation_config.json, which counts first."""
    from dscoder_exp import load

    prompt = [5, 9, 33]
    ids = llm.generate([prompt], 12, ignore_eos=True)[0]
    early, late = ids[2], next(token for token in ids[5:] if token not in ids[:5])
    copy = shutil.copytree(REFERENCE, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, late]}))
    (copy / "generation_config.json").write_text(json.dumps({"do_sample": True}))
    assert load(str(copy)).generate([prompt], 12) == [ids[: ids.index(late) + 1]]
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, early]}))
    again = load(str(copy))
    assert again.stop_token_ids == (2, early)
    assert again.generate([prompt], 12) == [ids[: ids.index(early) + 1]]
    assert again.generate([prompt], 12, ignore_eos=True) == [ids]


def test_prompts_of_different_lengths(llm):
    prompts = [[4, 5, 6], [7], [8, 9, 10, 11, 12]]
    assert llm.generate(prompts, 4, ignore_eos=True) == [llm.generate([p], 4, ignore_eos=True)[0] for p in prompts]
