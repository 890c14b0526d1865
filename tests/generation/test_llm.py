"""Generation from Python: batches, conversations, streams."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp import load
from dscoder_exp.schema.errors import Refused

REFERENCE = Path(__file__).parents[1] / "reference" / "tiny_gqa"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
SAMPLED: Any = {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "min_p": 0.001, "repetition_penalty": 1.2, "seed": 3}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reference model with a tokenizer, whose ids are ASCII codes, and a chat template."""
    model = Path(shutil.copytree(REFERENCE, tmp_path_factory.mktemp("llm") / "model"))
    tokenizer = Tokenizer(models.WordLevel({chr(number): number for number in range(128)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.add_special_tokens([chr(1), chr(2)])
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    return load(str(model))


@pytest.mark.parametrize("sampling", [{}, SAMPLED])
def test_a_prompts_ids_dont_depend_on_the_batch(llm: Any, sampling: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    shared = rng.integers(3, 128, 40).tolist()
    prompts = [rng.integers(3, 128, length).tolist() for length in (1, 3, 60, 140, 3)]
    prompts += [[*shared, 5], [*shared, 6, 7], prompts[0]]
    alone = [llm.generate([prompt], 9, ignore_eos=True, **sampling)[0] for prompt in prompts]
    for batch_size in (1, 3, 8):
        assert llm.generate(prompts, 9, ignore_eos=True, batch_size=batch_size, **sampling) == alone
    assert llm.generate([], 9) == []


def test_a_chat_is_what_generate_makes_of_its_prompt(llm: Any) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    messages += [{"role": "user", "content": "why?"}]
    ids = list(map(ord, "hello\nyes\nwhy?\n"))
    text = "".join(chr(number) for number in llm.generate([ids], 12)[0] if number not in (1, 2))
    assert llm.chat(messages, 12) == text
    assert "".join(llm.stream(messages, 12)) == text
    assert llm.chat("hello", 12) == llm.chat([{"role": "user", "content": "hello"}], 12)
    sampled = llm.chat(messages, 12, **SAMPLED)
    assert sampled != text
    for stop in ([text[3:5]], text[3:5]):
        assert llm.chat(messages, 12, stop=stop) == text[: text.index(text[3:5])]


def test_a_stream_that_is_left_disturbs_no_later_one(llm: Any) -> None:
    once = llm.chat("hello", 12)
    stream = llm.stream("goodbye", 30)
    next(stream)
    assert llm.chat("hello", 12) == once
    with pytest.raises(RuntimeError, match="another answer was begun"):
        list(stream)


def test_threads_share_a_model(llm: Any) -> None:
    prompts = [[5, 6, number] for number in range(8, 16)]
    alone = [llm.generate([prompt], 20, ignore_eos=True)[0] for prompt in prompts]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda prompt: llm.generate([prompt], 20, ignore_eos=True)[0], prompts * 3))
    assert found == alone * 3


def test_an_answer_ends_with_the_context(llm: Any) -> None:
    assert [len(ids) for ids in llm.generate([[5] * 250, [5] * 3], 12, ignore_eos=True)] == [6, 12]


@pytest.mark.parametrize(
    ("ids", "options", "told"),
    [
        ([[128]], {}, "ids: 128 is not in the vocabulary of 128 tokens"),
        ([[5], [6, -1]], {}, "ids: -1 is not in the vocabulary"),
        ([[2**40]], {}, "ids: 1099511627776 is not in the vocabulary"),
        ([[0.5]], {}, "ids: whole numbers are asked for, not float64"),
        ([[5] * 256], {}, "leave no room for an answer in the model's context of 256"),
        ([[5]], {"max_new_tokens": 0}, "max_new_tokens: must be at least 1, got 0"),
        ([[5]], {"batch_size": 0}, "batch_size: must be at least 1"),
        ([[5]], {"seed": -1}, "seed: must be at least 0"),
        ([[5]], {"temperature": float("nan")}, "temperature: must be a finite number"),
        ([[5]], {"temperature": -1.0}, "temperature: must be at least 0"),
        ([[5]], {"top_k": -1}, "top_k: must be at least 0"),
        ([[5]], {"top_p": 2.0}, "top_p: must be at most 1"),
        ([[5]], {"min_p": -1}, "min_p: must be at least 0"),
        ([[5]], {"repetition_penalty": 0}, "repetition_penalty: must be above 0"),
    ],
)
def test_arguments_out_of_their_range(llm: Any, ids: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        llm.generate(ids, **options)


def test_what_cant_be_answered_raises(llm: Any) -> None:
    with pytest.raises(ValueError, match="ids: the prompt is empty"):
        llm.generate([[]])
    with pytest.raises(ValueError, match="leave no room for an answer in the model's context of 256"):
        llm.chat("x" * 300)
    with pytest.raises(ValueError, match="the prompt is empty"):
        llm.chat([])
    with pytest.raises(ValueError, match="the prompt is empty"):
        llm.chat(" ")
    with pytest.raises(ValueError, match=r"a list of .* is asked for, not one of them"):
        llm.chat({"role": "user", "content": "hello"})
    with pytest.raises(ValueError, match="stop: an empty text"):
        llm.chat("hello", stop=[""])
    with pytest.raises(ValueError, match="ids: 128 is not in the vocabulary"):
        llm.logits([[128]])
    with pytest.raises(TypeError, match="top_kk"):
        llm.generate([[5]], top_kk=3)
    with pytest.raises(Refused, match="no tokenizer is given"):
        load(str(REFERENCE)).chat("hello")
