"""task=predict: only the answer on stdout, from each kind of model."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from tasks_support import REFERENCE, SMOLLM2, Workspace, succeeded
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp import load

HF = REFERENCE / "tiny_gqa"
IN_PROCESS = ["task=predict", "task.in_process=true", "tracking=off"]
QUESTION = "Write a Python function that adds two numbers."


@pytest.fixture(scope="session")
def characters(workspace: Workspace) -> Path:
    """A tokenizer for the reference models in which ids are ASCII codes."""
    tokenizer = Tokenizer(models.WordLevel({chr(number): number for number in range(128)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    path = workspace.directory / "characters-cache" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer.save(str(path))
    return path


def test_the_answer_equals_pytorchs(workspace: Workspace, characters: Path) -> None:
    """From a Hugging Face directory; with tabs and bells, which the console has to leave unchanged."""
    reference = np.load(HF / "reference.npz")
    prompt, ids = reference["greedy_prompt"][0], reference["greedy_ids"][0, 16:]
    answer = "".join(map(chr, ids))
    assert "\t" in answer
    assert 2 not in ids  # no EOS
    model = [f"model.path={HF}", f"tokenizer.path={characters}"]
    asked = [f"predict.prompt={''.join(map(chr, prompt))}", "predict.max_new_tokens=64", "tracking=off"]
    ended = succeeded(workspace("task=predict", *model, *asked))
    assert ended.out == f"{answer}\n"
    assert "64 tokens" in ended.err


def test_a_prompt_beyond_the_context_is_refused(refused: Callable[..., str], characters: Path) -> None:
    model = [f"model.path={HF}", f"tokenizer.path={characters}"]
    told = refused("task=predict", *model, f"predict.prompt={'x' * 256}", "name=too long", "tracking=off")
    message = "predict.prompt: the prompt's 256 tokens leave no room for an answer in the model's context of 256\n"
    message += "      -> give a shorter prompt"
    assert told == f"dscoder_exp: refused\n  - {message}\n"


def test_an_altered_checkpoint_is_refused(here_empty: CommandLine, untrained: Path) -> None:
    """The message names the changed tensor."""
    copy = Path(shutil.copytree(untrained, here_empty.directory / "x"))
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    refused = here_empty(*IN_PROCESS, "model.path=x", "predict.prompt=x")
    assert refused.code == 2
    assert "x/model.safetensors, lm_head.weight: its content has changed since it was written" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_an_answer_that_nobody_reads_ends(workspace: Workspace, untrained: Path) -> None:
    """Within a token or two, as a run that has finished."""
    asked = f"task=predict 'model.path={untrained}' predict.prompt=write predict.max_new_tokens=2000 name=unread"
    ended = succeeded(workspace.type(f"python -m dscoder_exp {asked} | head -c 1"))
    assert len(ended.out) == 1
    assert "tokens/s" not in ended.err
    assert "Traceback" not in ended.err
    assert workspace.run("unread").status == "FINISHED"


def test_an_answer_ends_with_the_context(here: CommandLine, characters: Path) -> None:
    """After a prompt of 255 tokens the context of 256 has place for one."""
    model = [f"model.path={HF}", f"tokenizer.path={characters}"]
    ended = succeeded(here(*IN_PROCESS, *model, f"predict.prompt={'x' * 255}"))
    assert "1 tokens" in ended.err
    assert len(ended.out) == 2


def test_the_same_seed_samples_the_same_answer(here: CommandLine, untrained: Path) -> None:
    """On the command line and from Python."""
    sampling: Any = {"temperature": 1.0, "top_p": 0.9}
    asked = [*IN_PROCESS, f"model.path={untrained}", "predict.prompt=write", "predict.max_new_tokens=24"]
    asked += [f"predict.{name}={value}" for name, value in sampling.items()]
    lines = succeeded(here("-m", *asked, "seed=0,0,1")).out.split("\n")
    begins = [index for index, line in enumerate(lines) if "[HYDRA]" in line] + [len(lines)]
    answers = ["\n".join(lines[a + 1 : b]).rstrip("\n") for a, b in pairwise(begins)]  # without Hydra's lines
    once, again, other = answers
    assert once == again
    assert once != other

    llm = load(str(untrained))
    assert llm.tokenizer is not None
    prompt = [llm.tokenizer.encode("write", add_special_tokens=False).ids]
    drawn = {seed: llm.generate(prompt, 24, seed=seed, **sampling)[0] for seed in (0, 1)}
    greedy = llm.generate(prompt, 24)
    assert greedy[0] not in drawn.values()
    assert llm.generate(prompt, 24, seed=3, temperature=1.0, top_k=1) == greedy, "top_k=1 leaves one token"


@pytest.mark.slow
def test_a_real_model_answers_from_its_gguf(workspace: Workspace) -> None:
    """Shape, weights, tokenizer and prompt format all come from the one file."""
    asked = [f"predict.prompt={QUESTION}", "predict.max_new_tokens=48", "name=smollm2"]
    ended = succeeded(workspace("task=predict", f"model.path={SMOLLM2}", *asked))
    assert "def " in ended.out
    assert "<|im_" not in ended.out
    run = workspace.run("smollm2")
    assert run.status == "FINISHED"
    assert run.metrics["predict/tokens_per_s"][0] > 0
    table = json.loads((run.artifacts / "predictions" / "answers.json").read_text())
    (row,) = (dict(zip(table["columns"], values, strict=True)) for values in table["data"])
    assert (row["prompt"], f"{row['text']}\n", row["tokens"]) == (QUESTION, ended.out, 48)
    assert run.metrics["predict/tokens"][0] == 48
