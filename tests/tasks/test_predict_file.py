"""task=predict with a file of prompts: what is written, going on after an interruption, and refusals."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from predict_support import Predict, read
from tasks_support import REFERENCE, Workspace, succeeded
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from dscoder_exp.generation.answer_file import AnswerFile
from dscoder_exp.storage.disk_space import disk_full

ROWS = [
    {"id": number, "prompt": "Write a function." if number % 3 else "Say what a queue is, and why.", "note": number}
    for number in range(5)
] + [{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}]
BRIEF = "predict.max_new_tokens=7"
SAMPLED = ["predict.temperature=1", "predict.top_p=0.95", "predict.min_p=0.001", "predict.repetition_penalty=1.1"]
FILES = ["predict.input=p.jsonl", "predict.output=a.jsonl"]


def texts(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["text"] for answer in answers]


def test_each_row_gets_the_answer_that_its_prompt_gets_alone(predict: Predict) -> None:
    predict.write(*ROWS)
    answers = predict.answered(BRIEF, "predict.batch_size=3")
    assert [{key: answer[key] for key in row} for answer, row in zip(answers, ROWS, strict=True)] == ROWS
    for answer in answers:
        assert (answer["tokens"], answer["finish_reason"]) == (7, "length")
        assert answer["prompt_tokens"] > 3
        assert answer["seconds"] > 0
    code, out, _ = predict(BRIEF, "predict.prompt=Write a function.")
    assert code == 0
    assert {answers[1]["text"], answers[2]["text"], answers[4]["text"]} == {out.removesuffix("\n")}


def test_a_text_file_has_a_prompt_a_line(predict: Predict) -> None:
    Path("p.txt").write_text("Write a function.\n\nWhy?\n")
    assert predict("predict.input=p.txt", "predict.output=a.jsonl", BRIEF)[0] == 0
    assert [answer["prompt"] for answer in read(Path("a.jsonl"))] == ["Write a function.", "Why?"]


@pytest.mark.slow
def test_a_sampled_text_depends_on_its_seed_and_prompt_alone(predict: Predict) -> None:
    predict.write(*ROWS)
    answers = texts(predict.answered(BRIEF, "predict.batch_size=1", *SAMPLED))
    assert texts(predict.answered(BRIEF, "predict.batch_size=4", *SAMPLED)) == answers
    assert texts(predict.answered(BRIEF, "seed=1", *SAMPLED)) != answers
    predict.write(*reversed(ROWS))
    assert texts(predict.answered(BRIEF, *SAMPLED))[::-1] == answers
    assert predict(BRIEF, *SAMPLED, "predict.prompt=Write a function.")[1] == f"{answers[1]}\n"


def test_several_samples_of_each_row(predict: Predict) -> None:
    predict.write(*ROWS[:2])
    answers = predict.answered(BRIEF, "predict.num_samples=3", *SAMPLED)
    assert [(answer["id"], answer["sample"]) for answer in answers] == [(n, s) for n in (0, 1) for s in (0, 1, 2)]
    assert len(set(texts(answers))) == 6
    assert texts(predict.answered(BRIEF, *SAMPLED)) == texts(answers)[::3]
    _, out, _ = predict(BRIEF, "predict.num_samples=3", *SAMPLED, "predict.prompt=Write a function.")
    assert out == "\n".join(f"--- {number} of 3\n{text}\n" for number, text in enumerate(texts(answers)[3:], 1))


def test_a_stop_string_ends_an_answer(predict: Predict) -> None:
    predict.write(ROWS[0])
    (whole,) = predict.answered("predict.max_new_tokens=30")
    (cut,) = re.findall("[A-Za-z]{3}", whole["text"][4:])[:1]
    (answer,) = predict.answered("predict.max_new_tokens=30", f"predict.stop=[{json.dumps(cut)}]")
    assert answer["text"] == whole["text"].partition(cut)[0]
    assert answer["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (disk_full(Path("a.jsonl"), "predict.output", errno.ENOSPC), 1)]
)
def test_an_interrupted_run_goes_on(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """It keeps the answers that were there, and in the end has what a run without an interruption has."""
    predict.write(*ROWS)
    whole = predict.answered(BRIEF, *SAMPLED)
    kept, add = [], AnswerFile.add

    def interrupted(self: AnswerFile, place: Any, answer: Any) -> None:
        if len(kept) == 2:
            raise error
        kept.append(place)
        add(self, place, answer)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "add", interrupted)
        ended, _, err = predict(*FILES, BRIEF, *SAMPLED)
    assert ended == code
    assert "2 of 6 answers are kept; the same command goes on after them" in err
    assert ("predict.output: a.jsonl can't be written: No space left on device" in err) == (code == 1)
    assert predict.files() == {"a0.jsonl", "a.jsonl.partial"}
    ended, _, err = predict(*FILES, BRIEF, *SAMPLED, "predict.batch_size=2")
    assert ended == 0
    assert "going on: 2 of 6 answers are there" in err
    assert "4 answers, 28 tokens" in err
    assert texts(read(Path("a.jsonl"))) == texts(whole)
    assert predict.files() == {"a0.jsonl", "a.jsonl"}


def test_it_goes_on_with_the_same_settings_alone(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    predict.write(*ROWS)
    template, files = Path("t.jinja"), [*FILES, "predict.template=t.jinja"]
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "finish", lambda self, lines: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = predict(*files, BRIEF)
        assert code == 130
        assert "6 of 6 answers are kept; the same command goes on after them" in err
    code, _, err = predict(*files, "predict.max_new_tokens=8", "seed=3")
    assert code == 2
    assert (
        "predict.output: a.jsonl was begun, and would go on, with other settings: seed, predict.max_new_tokens" in err
    )
    predict.write(*ROWS[:-1])
    assert "with other settings: the content of predict.input\n" in predict(*files, BRIEF)[2]
    predict.write(*ROWS)
    template.write_text("{% for m in messages %}>{{ m.content }}{% endfor %}")
    assert "with other settings: the content of predict.template\n" in predict(*files, BRIEF)[2]
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    code, _, err = predict(*files, BRIEF)
    assert code == 0
    assert "loading the model" not in err, "all answers are there"


def test_bad_rows_are_left_out_on_request_and_counted(predict: Predict) -> None:
    predict.write(ROWS[0], "{not JSON", ROWS[1], {"prompt": ""}, {"prompt": "a", "text": "mine"})
    code, _, err = predict(*FILES, BRIEF)
    assert code == 2
    assert "p.jsonl:2:2: not JSON: Expecting property name enclosed in double quotes\n" in err
    assert "p.jsonl:4: the prompt is empty\n" in err
    assert 'p.jsonl:5: "text" is a field of the answer, which would replace the row\'s own: rename it' in err
    assert "(3 of 5 rows are bad)\n" in err
    assert predict.files() == set()
    code, _, err = predict(*FILES, BRIEF, "predict.skip_bad=true")
    assert code == 0
    assert "bad rows left out: 3 of 5 (predict.skip_bad)" in err
    assert [answer["id"] for answer in read(Path("a.jsonl"))] == [0, 1]


REFUSALS = [
    ([], "predict.prompt: task=predict has no prompt"),
    (["predict.prompt="], "predict.prompt: the prompt is empty"),
    (["predict.prompt=a", "predict.interactive=true"], "predict.interactive: given beside predict.prompt"),
    (["predict.input=p.jsonl"], "predict.output: task=predict has no file to write the answers to"),
    (["predict.prompt=a", "predict.output=a.jsonl"], "predict.output: is for answers to predict.input"),
    (["predict.input=none.jsonl", "predict.output=a.jsonl"], "predict.input: cannot be read: none.jsonl (No such file"),
    (["predict.input=p.jsonl", "predict.output=p.jsonl"], "predict.output: p.jsonl exists already"),
    (["predict.input=p.jsonl", "predict.output=p.jsonl/a"], "predict.output: p.jsonl can't be written"),
    (["predict.prompt=a", "predict.temperature=-1"], "predict.temperature: must be at least 0, got -1"),
    (["predict.prompt=a", "predict.top_p=1.5"], "predict.top_p: must be at most 1"),
    (["predict.prompt=a", "predict.min_p=nan"], "predict.min_p: must be a finite number"),
    (["predict.prompt=a", "predict.repetition_penalty=0"], "predict.repetition_penalty: must be above 0"),
    (["predict.prompt=a", "predict.topp=0.9"], "predict.topp: unknown key"),
    (["predict.prompt=a", 'predict.stop=[""]'], "predict.stop: an empty text would end every answer at once"),
    (["predict.prompt=a", "predict.stop=hello"], "predict.stop: must be a list, each text, got 'hello'"),
    (["predict.prompt=a\udcff"], "predict.prompt: not UTF-8 text"),
    (["predict.prefix=a", "predict.suffix=b"], "predict.prefix: the model can't fill in the middle"),
    (["predict.prefix= ", "predict.suffix= "], "predict.prefix: prefix and suffix are both empty"),
    (["predict.interactive=true", "parallel=tp2"], "predict.interactive: a conversation needs one process"),
    (
        ["predict.prompt=write a list", "model.max_position_embeddings=2"],
        "leave no room for an answer in the model",
    ),
    ([*FILES, "seed=0,1", "-m"], "predict.output: several jobs of the sweep would write to the same place"),
]


@pytest.mark.parametrize(("asked", "told"), REFUSALS, ids=[" ".join(asked) for asked, _ in REFUSALS])
def test_bad_input_is_one_message(predict: Predict, asked: list[str], told: str) -> None:
    predict.write(*ROWS)
    code, out, err = predict(*asked, model=["task=predict", "model=tiny"])
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert predict.files() == set()


def test_keys_without_an_effect_are_told(predict: Predict) -> None:
    code, _, err = predict("predict.prompt=a", BRIEF, "predict.top_k=3")
    assert code == 0
    assert "no effect: predict.top_k; predict.temperature=0 takes the likeliest token" in err


def test_a_middle_is_filled_in(predict: Predict) -> None:
    """With the reference's model, whose ids are characters here, and three of them the tokens for infilling."""
    tokens = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    tokens = ["<s>", "</s>", *tokens]  # ids 1 to 5
    vocabulary = {chr(number): number for number in (0, *range(6, 128))}
    vocabulary |= {text: number for number, text in enumerate(tokens, 1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.add_tokens([AddedToken(text, special=False) for text in tokens])
    tokenizer.save("tokenizer.json")
    model = ["task=predict", "task.in_process=true", f"model.path={REFERENCE / 'tiny_gqa'}"]
    asked = ["tokenizer.path=tokenizer.json", "predict.prefix=def f(", "predict.suffix=):", "predict.max_new_tokens=9"]
    code, out, err = predict(*asked, model=model)
    assert code == 0, err

    from dscoder_exp import load

    ids = [3, *map(ord, "def f("), 4, *map(ord, "):"), 5]
    (new,) = load(str(REFERENCE / "tiny_gqa")).generate([ids], 9)
    assert out == "".join(chr(number) for number in new if number not in range(1, 6)) + "\n"


@pytest.mark.slow
def test_tensor_ranks_write_what_one_process_writes(workspace: Workspace) -> None:
    directory = workspace.directory / "ranks-cache"
    directory.mkdir()
    (directory / "p.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    asked = ["task=predict", "model=tiny", "tracking=off", f"predict.input={directory}/p.jsonl", BRIEF, *SAMPLED]
    for parallel in ("single", "tp2"):
        output = f"predict.output={directory}/{parallel}.jsonl"
        succeeded(workspace(*asked, output, f"parallel={parallel}", "predict.batch_size=2"))
    one, two = (texts(read(directory / f"{parallel}.jsonl")) for parallel in ("single", "tp2"))
    assert one == two
