"""task=evaluate: completions that are there, a model, the loss; what is written, going on, and refusals."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from predict_support import Predict, read

from dscoder_exp.evaluation.keeper import Keeper
from dscoder_exp.evaluation.sandbox import Sandbox

PROBLEMS = [
    {
        "task_id": f"Own/{number}",
        "prompt": f'def add_{number}(x):\n    """ Add {number} to x. """\n',
        "entry_point": f"add_{number}",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }
    for number in range(4)
]
RIGHT = [{"task_id": row["task_id"], "completion": row["canonical_solution"]} for row in PROBLEMS]
WRONG = [{"task_id": row["task_id"], "completion": "    return None\n"} for row in PROBLEMS]
SUITE = ["task=evaluate", "evaluate.source=h.jsonl"]
GIVEN = [*SUITE, "evaluate.completions=c.jsonl", "evaluate.output=out"]
TINY = [*SUITE, "model=tiny", "task.in_process=true", "evaluate.output=out", "evaluate.max_new_tokens=5"]


@pytest.fixture(autouse=True)
def files(predict: Predict) -> None:
    write(predict.directory / "h.jsonl", PROBLEMS)
    write(predict.directory / "c.jsonl", RIGHT)


def write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def score(out: str) -> str:
    return re.findall(r"^pass@1 +(.*)$", out, re.MULTILINE)[0]


def test_completions_are_scored(predict: Predict) -> None:
    write(
        Path("c.jsonl"),
        [RIGHT[0], WRONG[1], {**RIGHT[2], "completion": ""}, {**RIGHT[3], "completion": "    return x.y\n"}],
    )
    code, out, err = predict(model=GIVEN)
    assert code == 0, err
    assert score(out) == "25.0% (1 of 4), 95% interval 4.6% to 69.9%"
    assert "verdicts     1 passed, 1 wrong, 1 error, 1 nothing extracted" in out
    rows = read(Path("out/results.jsonl"))
    assert [(row["task_id"], row["passed"], row["verdict"]) for row in rows] == [
        ("Own/0", True, "passed"),
        ("Own/1", False, "wrong"),
        ("Own/2", False, "nothing extracted"),
        ("Own/3", False, "error"),
    ]
    assert rows[0]["result"] == "passed"
    assert rows[1]["result"].startswith("wrong: ")
    assert "'int' object has no attribute 'y'" in rows[3]["result"]
    assert rows[1]["completion"] == WRONG[1]["completion"]
    assert {file.name for file in Path("out").iterdir()} == {"results.jsonl", "evaluation.json", "evaluation.html"}
    summary = json.loads(Path("out/evaluation.json").read_text())
    assert (summary["pass_at_1"], summary["problems"], summary["verdicts"]["passed"]) == (0.25, 4, 1)
    assert re.fullmatch("[0-9a-f]{16}", summary["protocol_hash"])
    page = Path("out/evaluation.html").read_text()
    assert "Own/3" in page
    assert "no attribute &#39;y&#39;" in page
    assert not re.search(r"(src|href)=|https?://|@import", page), "it needs no network"


def test_scoring_imports_no_mindspore(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mindspore", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = predict(model=GIVEN)
    assert code == 0, err
    assert score(out).startswith("100.0% (4 of 4)")


def test_several_samples_of_a_problem(predict: Predict) -> None:
    write(Path("c.jsonl"), [*RIGHT, *WRONG, *WRONG])
    code, out, _ = predict("evaluate.k=2", model=GIVEN)
    assert code == 0
    assert score(out).startswith("33.3% (1.3 of 4)")
    assert "pass@2       66.7%" in out
    assert [row["sample"] for row in read(Path("out/results.jsonl"))] == [0, 1, 2] * 4


def test_its_own_results_can_be_scored_again(predict: Predict) -> None:
    write(Path("c.jsonl"), [*RIGHT[:2], *WRONG[2:]])
    assert predict(model=GIVEN)[0] == 0
    again = [*SUITE, "evaluate.completions=out/results.jsonl", "evaluate.output=again"]
    assert predict(model=again)[0] == 0
    one, other = (read(Path(name) / "results.jsonl") for name in ("out", "again"))
    assert [row["passed"] for row in one] == [row["passed"] for row in other] == [True, True, False, False]


def test_two_evaluations_are_compared(predict: Predict) -> None:
    assert predict(model=GIVEN)[0] == 0
    write(Path("c.jsonl"), [RIGHT[0], *WRONG[1:]])
    second = [*SUITE, "evaluate.completions=c.jsonl", "evaluate.output=second", "evaluate.baseline=out"]
    code, out, err = predict(model=second)
    assert code == 0, err
    assert "baseline     0 problems solved here alone, 3 there alone: p = 0.25 (McNemar's exact test)" in out
    write(Path("h.jsonl"), PROBLEMS[:3])
    write(Path("c.jsonl"), RIGHT[:3])
    code, _, err = predict("evaluate.output=third", model=second)
    assert code == 2
    assert "evaluate.baseline: out was evaluated by another protocol, which can't be compared: problems" in err


def test_an_interrupted_evaluation_goes_on(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Keeper._take
    count = [0]

    def interrupted(self: Keeper, *scored: Any) -> None:
        if count[0] == 2:
            raise KeyboardInterrupt
        count[0] += 1
        taken(self, *scored)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_take", interrupted)
        code, _, err = predict(model=GIVEN)
    assert code == 130
    assert not Path("out/results.jsonl").exists()
    code, out, err = predict(model=GIVEN)
    assert code == 0, err
    assert score(out).startswith("100.0% (4 of 4)")
    assert "scoring 4/4" in err
    code, _, err = predict(model=GIVEN)
    assert code == 2
    assert "evaluate.output: out/results.jsonl exists already" in err


def test_a_model_is_evaluated(predict: Predict) -> None:
    code, out, err = predict(model=TINY)
    assert code == 0, err
    assert score(out).startswith("0.0% (0 of 4), 95% interval 0.0% to 49.0%")
    assert "asked in completion form" in err
    rows = read(Path("out/results.jsonl"))
    assert len(rows) == 4
    for row in rows:
        assert (row["tokens"], row["finish_reason"], row["form"]) == (5, "length", "completion")
        assert row["passed"] is False


def test_answers_that_are_kept_are_not_generated_again(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "score_rest", lambda self, advance: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = predict(model=TINY)
    assert code == 130
    assert "4 answers are kept; the same command goes on after them" in err
    code, _, err = predict("evaluate.max_new_tokens=6", model=TINY)
    assert code == 2
    assert "begun, and would go on, with other settings: evaluate.max_new_tokens" in err
    code, _, err = predict(model=TINY)
    assert code == 0, err
    assert "loading the model" not in err


@pytest.mark.slow
def test_samples_differ_and_are_reproducible(predict: Predict) -> None:
    sampled = ["evaluate.num_samples=3", "evaluate.temperature=1", "evaluate.max_problems=2"]
    assert predict(*sampled, model=TINY)[0] == 0
    assert predict(*sampled, "evaluate.output=again", "evaluate.batch_size=1", model=TINY)[0] == 0
    texts = [[row["completion"] for row in read(Path(name) / "results.jsonl")] for name in ("out", "again")]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 6


@pytest.mark.slow
def test_the_loss_of_rows_is_weighted_by_tokens(predict: Predict) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "Count.", "response": " ".join(map(str, range(60)))}]
    write(Path("rows.jsonl"), rows)
    loss = ["task=evaluate", "evaluate.suite=loss", "model=tiny", "task.in_process=true", "evaluate.output=out"]
    code, out, err = predict("evaluate.source=rows.jsonl", "seq_length=512", model=loss)
    assert code == 0, err
    found = float(re.findall(r"^loss +([\d.]+) nats", out, re.MULTILINE)[0])
    assert "2 (all)" in out
    summary = json.loads(Path("out/evaluation.json").read_text())
    assert summary["loss"] == pytest.approx(found, abs=1e-4)
    own = []
    for number, row in enumerate(rows):
        write(Path("rows.jsonl"), [row])
        assert predict("evaluate.source=rows.jsonl", "seq_length=512", f"evaluate.output=o{number}", model=loss)[0] == 0
        one = json.loads(Path(f"o{number}/evaluation.json").read_text())
        own.append((one["loss"], one["tokens"]))
    assert summary["tokens"] == sum(tokens for _, tokens in own)
    weighted = sum(value * tokens for value, tokens in own) / summary["tokens"]
    assert summary["loss"] == pytest.approx(weighted, rel=1e-5)


@pytest.mark.slow
def test_the_loss_of_held_out_rows_and_of_prepared_data(predict: Predict) -> None:
    own = ["model=tiny", "data.max_rows=40", "seq_length=256"]
    loss = ["task=evaluate", "evaluate.suite=loss", "task.in_process=true", "tokenizer=tiny", *own]
    code, out, err = predict("evaluate.output=out", model=loss)
    assert code == 0, err
    assert "(held out)" in out
    assert predict("data.output=prepared", model=["task=prepare", *own])[0] == 0
    code, again, err = predict("evaluate.source=prepared", "evaluate.output=again", model=loss)
    assert code == 0, err
    assert re.findall("loss .*", out) == re.findall("loss .*", again)
    code, _, err = predict("data.eval_fraction=0", "evaluate.output=none", model=loss)
    assert code == 2
    assert "are held out (data.eval_fraction=0)" in err


def test_a_strict_sandbox_is_refused_before_anything_starts_where_there_is_none(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = predict("evaluate.sandbox=strict", "evaluate.output=strict", model=GIVEN)
    assert code == 0, err
    with monkeypatch.context() as patch:
        defaults = {**(Sandbox.__init__.__kwdefaults__ or {}), "walls": ("none",)}
        patch.setattr(Sandbox.__init__, "__kwdefaults__", defaults)
        code, _, err = predict("evaluate.sandbox=strict", model=GIVEN)
    assert code == 2
    assert "evaluate.sandbox: strict, but no namespaces here" in err
    assert not Path("out").exists()


REFUSALS = [
    ([], ["evaluate.source=null"], "evaluate.source: the suite humaneval needs its file"),
    ([], ["evaluate.suite=humanevall"], "evaluate.suite: must be one of humaneval, humaneval+"),
    ([], ["evaluate.suite=mbpp"], "h.jsonl looks like HumanEval, not like mbpp"),
    ([], ["evaluate.completions=none.jsonl"], "evaluate.completions: cannot be read"),
    ([{"task_id": "Own/9", "completion": ""}], [], "c.jsonl:1: task_id Own/9 isn't a problem of the suite humaneval"),
    ([*RIGHT, "{"], [], "c.jsonl:5: not JSON"),
    ([{"task_id": "Own/0"}], [], 'c.jsonl:1: there is no "completion"'),
    ([], ["parallel=dp2"], "parallel: 2 ranks, but evaluate.completions needs no model"),
    ([], ["evaluate.suite=loss"], "evaluate.completions: a loss is measured on rows"),
    ([], ["evaluate.baseline=none"], "evaluate.baseline: there is no evaluation.json in none"),
    ([], ["evaluate.output=h.jsonl"], "evaluate.output: h.jsonl can't be written: h.jsonl is a file"),
]


@pytest.mark.parametrize(("rows", "asked", "told"), REFUSALS, ids=[told for *_, told in REFUSALS])
def test_bad_input_is_one_message(predict: Predict, rows: list[Any], asked: list[str], told: str) -> None:
    if rows:
        write(Path("c.jsonl"), rows)
    code, out, err = predict(*asked, model=GIVEN)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert predict.files() == {"h.jsonl", "c.jsonl"}


MODEL_REFUSALS = [
    (["evaluate.num_samples=2"], "evaluate.num_samples: 2 greedy answers to a problem would be the same"),
    (["evaluate.k=2"], "evaluate.k: pass@2 needs 2 samples of a problem, not 1"),
    (["evaluate.prompt=instruct"], "evaluate.prompt: instruct, but the model brings no prompt format"),
    (["evaluate.instruction=Solve it."], "evaluate.instruction: has no {prompt}"),
    (["model.max_position_embeddings=9"], "the prompt of Own/0 has"),
    (["parallel=cp2"], "parallel.context: 2, but a suite's problems are shared by replicas alone"),
    (["evaluate.source=none.jsonl"], "evaluate.source: cannot be read"),
    (["seed=0,1", "-m"], "evaluate.output: several jobs of the sweep would write to the same place"),
]


@pytest.mark.parametrize(("asked", "told"), MODEL_REFUSALS, ids=[told for _, told in MODEL_REFUSALS])
def test_what_can_t_be_asked_is_refused_before_anything_starts(predict: Predict, asked: list[str], told: str) -> None:
    code, _, err = predict(*asked, model=[*SUITE, "model=tiny", "evaluate.output=out"])
    assert code == 2
    assert told in err
    assert predict.files() == {"h.jsonl", "c.jsonl"}
