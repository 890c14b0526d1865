"""task=predict: the answer and nothing else on stdout, from each kind of model there is."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tasks_support import REFERENCE, SMOLLM2, Room, done
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp import load

HF = REFERENCE / "tiny_gqa"
QUESTION = "Write a Python function that adds two numbers."


@pytest.fixture(scope="session")
def characters(room: Room) -> Path:
    """The tokenizer of the reference models: an id is an ASCII code."""
    tokenizer = Tokenizer(models.WordLevel({chr(number): number for number in range(128)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    path = room.directory / "characters-cache" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


def test_the_answer_is_the_one_pytorch_gives(room: Room, characters: Path) -> None:
    """From a Hugging Face directory, character by character; with tabs and bells, which a console may not touch."""
    reference = np.load(HF / "reference.npz")
    prompt, ids = reference["greedy_prompt"][0], reference["greedy_ids"][0, 16:]
    answer = "".join(map(chr, ids))
    assert "\t" in answer
    assert 2 not in ids  # the eos
    model = [f"model.path={HF}", f"tokenizer.path={characters}"]
    asked = [f"predict.prompt={''.join(map(chr, prompt))}", "predict.max_new_tokens=64", "tracking=off"]
    ended = done(room("task=predict", *model, *asked))
    assert ended.out == f"{answer}\n"
    assert "64 tokens" in ended.err


def test_a_prompt_beyond_the_context_is_refused(room: Room, characters: Path) -> None:
    model = [f"model.path={HF}", f"tokenizer.path={characters}"]
    refused = room("task=predict", *model, f"predict.prompt={'x' * 256}", "name=too long", "tracking=off")
    assert refused.code == 2
    message = "predict.prompt: the prompt has 256 tokens, the model's context 256\n      -> give a shorter prompt"
    assert refused.err.endswith(f"dscoder_exp: refused\n  - {message}\n")


def test_an_altered_checkpoint_is_refused(empty_room: Room, untrained: Path) -> None:
    """By whoever loads it, with the tensor's name."""
    copy = Path(shutil.copytree(untrained, empty_room.directory / "x"))
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    refused = empty_room("task=predict", "model.path=x", "predict.prompt=x", "tracking=off")
    assert refused.code == 2
    assert "x/model.safetensors, lm_head.weight: its content has changed since it was written" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_an_answer_ends_where_the_context_does(room: Room, characters: Path) -> None:
    """One token of room after a prompt of 255."""
    model = [f"model.path={HF}", f"tokenizer.path={characters}", "tracking=off"]
    ended = done(room("task=predict", *model, f"predict.prompt={'x' * 255}"))
    assert "1 tokens" in ended.err
    assert len(ended.out) == 2


@pytest.mark.slow
def test_a_seed_draws_the_same_answer_again(room: Room, untrained: Path) -> None:
    """The same as from Python."""
    sampling: Any = {"temperature": 1.0, "top_p": 0.9}
    asked = ["task=predict", f"model.path={untrained}", "predict.prompt=write", "predict.max_new_tokens=24"]
    asked += [f"predict.{name}={value}" for name, value in sampling.items()]
    lines = done(room("-m", *asked, "seed=0,0,1", "tracking=off")).out.split("\n")
    begins = [index for index, line in enumerate(lines) if "[HYDRA]" in line] + [len(lines)]
    answers = ["\n".join(lines[a + 1 : b]).rstrip("\n") for a, b in pairwise(begins)]  # without Hydra's about the jobs
    once, again, other = answers
    assert once == again
    assert once != other

    llm = load(str(untrained))
    assert llm.tokenizer is not None
    prompt = [llm.tokenizer.encode("write", add_special_tokens=False).ids]
    drawn = {seed: llm.generate(prompt, 24, seed=seed, **sampling)[0] for seed in (0, 1)}
    greedy = llm.generate(prompt, 24)
    assert greedy[0] not in drawn.values()
    assert llm.generate(prompt, 24, seed=3, temperature=1.0, top_k=1) == greedy, "there is one token to draw from"


@pytest.mark.slow
def test_a_real_model_answers_from_its_gguf(room: Room) -> None:
    """Shape, weights, tokenizer and prompt format all come from the one file."""
    asked = [f"predict.prompt={QUESTION}", "predict.max_new_tokens=48", "name=smollm2"]
    ended = done(room("task=predict", f"model.path={SMOLLM2}", *asked))
    assert "def " in ended.out
    assert "<|im_" not in ended.out
    run = room.run("smollm2")
    assert run.status == "FINISHED"
    assert run.metrics["predict/tokens_per_s"][0] > 1
    assert (run.artifacts / "predictions" / "answer.md").read_text() == f"{QUESTION}\n\n---\n\n{ended.out}"
