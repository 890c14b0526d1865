"""Each known way to a wrong score: what a public harness, or an earlier one, got wrong about an answer."""

from pathlib import Path

import pytest
from evaluation_support import HUMANEVAL, MBPP, Runner, passed, problem_of, write_rows
from tokenizers import Tokenizer

from dscoder_exp.evaluation.extraction import AFTER_FUNCTION, extract, stop_strings
from dscoder_exp.evaluation.problems import CodeProblem, parsed
from dscoder_exp.evaluation.programs import LEAST_SECONDS, TIMES_REFERENCE, Outcome, Program, Verdict
from dscoder_exp.evaluation.prompts import texts_of
from dscoder_exp.evaluation.scoring import REFERENCE, Sample, Scorer
from dscoder_exp.evaluation.suites import read_suite
from dscoder_exp.generation.answers import Ending, TextStream

REFERENCES = Path(__file__).parents[1] / "reference"
BODY = HUMANEVAL[0]["canonical_solution"]
WHOLE = HUMANEVAL[0]["prompt"] + BODY
DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"
BEGINNING, LINE = "def f(x):\n", "    return x"
SIGNATURE = "def total(numbers: List[int]) -> int:\n"


@pytest.fixture
def problem(tmp_path: Path) -> CodeProblem:
    return problem_of(tmp_path, HUMANEVAL[0])


def outcome_of(problem: CodeProblem, answer: str, form: str) -> str:
    """ "right" if the answer's program passes the problem's tests: run here, since these answers are our own."""
    found = extract(problem, answer, form)
    if found.code is None:
        return str(found.verdict)
    names: dict[str, object] = {}
    try:
        exec(found.code, names)
        exec(problem.tests, names)
    except Exception as error:
        return type(error).__name__
    return "right"


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```\n"


# Which fence of an answer counts

ANSWERS = {
    "one block": f"Here it is:\n\n{fenced(WHOLE)}\nIt adds them up.",
    "an example of its use after it": f"{fenced(WHOLE)}\nUse it so:\n\n{fenced('print(total([1, 2]))' + chr(10))}",
    "a wrong second thought after it": f"{fenced(WHOLE)}\nOr shorter:\n{fenced(SIGNATURE + '    return 1' + chr(10))}",
    "the prompt's own fence before it": f"You gave\n{fenced(HUMANEVAL[0]['prompt'])}\nand here it is:\n{fenced(WHOLE)}",
    "a stub before it": f"{fenced(SIGNATURE + '    pass' + chr(10))}\nfilled in:\n{fenced(WHOLE)}",
    "shell commands before it": f"{fenced('pip install nothing' + chr(10), 'bash')}\n{fenced(WHOLE)}",
    "helpers of another block": f"{fenced('import math' + chr(10))}\n{fenced(WHOLE)}",
    "no language": fenced(WHOLE, ""),
    "py": fenced(WHOLE, "py"),
    "Python": fenced(WHOLE, "Python"),
    "tildes": f"~~~python\n{WHOLE}~~~\n",
    "four backticks": f"````python\n{WHOLE}````\n",
    "not closed": f"```python\n{WHOLE}",
    "closed behind the last line": f"```python\n{WHOLE.rstrip()}```",
    "opened behind a text": f"Sure! ```python\n{WHOLE}```",
    "in a list": "1. So:\n\n" + "".join(f"   {line}\n" for line in fenced(WHOLE).splitlines()),
    "line breaks of Windows": fenced(WHOLE).replace("\n", "\r\n"),
    "no fence": WHOLE,
    "no fence, between sentences": f"Here is the function:\n\n{WHOLE}\nThis adds all numbers.",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_block_that_counts(problem: CodeProblem, name: str) -> None:
    assert outcome_of(problem, ANSWERS[name], "instruct") == "right"
    assert outcome_of(problem, ANSWERS[name], "auto") == "right"


def test_of_two_answers_the_first_counts(problem: CodeProblem) -> None:
    """Also where it is the wrong one: the last, which is right, would be a second attempt."""
    wrong = fenced(SIGNATURE + "    return 1\n")
    assert outcome_of(problem, f"{wrong}\nNo, that's wrong:\n{fenced(WHOLE)}", "instruct") == "AssertionError"


# Stop sequences that cut a chat answer at its first line


def test_a_chat_answer_has_no_stop_strings(problem: CodeProblem) -> None:
    assert stop_strings("humaneval", "instruct") == ()
    helper = "import math\n\ndef helper(x):\n    return x\n\n# adds them up\n"
    code = f"{helper}{SIGNATURE}    return sum(map(helper, numbers))\n"
    assert outcome_of(problem, fenced(code), "instruct") == "right"


def test_a_completion_ends_where_other_code_begins(problem: CodeProblem) -> None:
    for stop in AFTER_FUNCTION:
        assert outcome_of(problem, f"{BODY}{stop.lstrip(chr(10))} (\n", "completion") == "right", stop
    assert stop_strings("humaneval", "completion") == AFTER_FUNCTION


# A prompt whose trailing newline was stripped


def test_the_prompt_is_asked_and_joined_as_the_file_has_it(tmp_path: Path, problem: CodeProblem) -> None:
    suite = read_suite("humaneval", write_rows(tmp_path / "h.jsonl", HUMANEVAL))
    texts = texts_of(suite, "completion", None)
    assert texts == [row["prompt"] for row in HUMANEVAL]
    assert extract(problem, BODY, "completion").code == f"{texts[0]}{BODY}\n"


def test_deepseek_s_tokens_are_the_same_with_the_line_break(shared_data: Path) -> None:
    """DeepSeek-Coder's own evaluation strips it, and the model then begins with it: a token of its own in each."""
    tokenizer = Tokenizer.from_file(str(shared_data / "tokenizers" / "deepseek-llm-7b" / "tokenizer.json"))
    suite = read_suite("humaneval", shared_data / "humaneval" / "HumanEval.jsonl")
    ending_in_a_break = [text for text in texts_of(suite, "completion", None) if text.endswith("\n")]
    assert len(ending_in_a_break) > 150
    for text in ending_in_a_break:
        stripped, whole = (tokenizer.encode(each, add_special_tokens=False).ids for each in (text.rstrip(), text))
        assert whole[: len(stripped)] == stripped


# An end token's text left in the code


@pytest.mark.parametrize("end", ["<|EOT|>", "<|im_end|>", "</s>", "<|endoftext|>", DEEPSEEK_END, "<|eot_id|>"])
def test_an_end_token_is_no_part_of_the_code(problem: CodeProblem, end: str) -> None:
    assert outcome_of(problem, f"{BODY}{end}", "completion") == "right"
    assert outcome_of(problem, f"{fenced(WHOLE)}{end}\nUser: and now?", "instruct") == "right"
    assert outcome_of(problem, f"```python\n{WHOLE}{end}", "instruct") == "right"


# Indentation lost at the join


def test_the_first_line_s_indentation_stays(problem: CodeProblem) -> None:
    assert outcome_of(problem, "    return sum(numbers)\n", "completion") == "right"
    assert outcome_of(problem, "\n    return sum(numbers)\n", "completion") == "right"


def test_a_decoder_that_drops_blanks_at_a_beginning_keeps_the_indentation() -> None:
    """sentencepiece's drops all of them: the body's first line would have none."""
    tokenizer = Tokenizer.from_file(str(REFERENCES / "chat_templates" / "sentencepiece" / "tokenizer.json"))
    prompt, whole = (tokenizer.encode(text, add_special_tokens=False).ids for text in (BEGINNING, f"{BEGINNING}{LINE}"))
    answer = whole[len(prompt) :]
    lost, kept = TextStream(tokenizer, Ending(())), TextStream(tokenizer, Ending(()), prompt)
    for token in answer:
        lost.push(token)
        kept.push(token)
    kept.end()
    lost.end()
    assert lost.text == LINE.lstrip()
    assert kept.text == LINE


# Answers that repeat the signature, or only complete the body


@pytest.mark.parametrize(
    "answer",
    [
        fenced(BODY),
        fenced("return sum(numbers)\n"),
        fenced("if numbers:\n    return sum(numbers)\nreturn 0\n"),
        fenced(SIGNATURE + BODY),
        fenced(WHOLE),
        "    return sum(numbers)",
    ],
)
def test_body_and_whole_function(problem: CodeProblem, answer: str) -> None:
    assert outcome_of(problem, answer, "instruct") == "right"


def test_a_completion_that_repeats_the_signature(problem: CodeProblem) -> None:
    assert outcome_of(problem, f"{SIGNATURE}{BODY}", "completion") == "right"
    assert outcome_of(problem, f"{SIGNATURE}{BODY}", "auto") == "right"


def test_imports_and_helpers_of_the_prompt_are_there(tmp_path: Path) -> None:
    helped = problem_of(tmp_path, HUMANEVAL[1])
    assert outcome_of(helped, fenced("def fourfold(x):\n    return double(double(x))\n"), "instruct") == "right"


# A time limit that a slow or busy machine exceeds


def test_limits_follow_the_reference_solution_s_own_time(tmp_path: Path) -> None:
    """A slow machine's reference is slow, too. That only computing counts is the sandbox's part."""
    problems = read_suite("humaneval", write_rows(tmp_path / "h.jsonl", HUMANEVAL)).problems
    runner = Runner(lambda program: passed(program, 2.0 if program.key[0] == "Own/0" else 0.01))
    scorer = Scorer(runner, problems)
    for problem in problems:
        scorer.submit(Sample(problem, 0, "    return None\n", "completion"))
    assert [scored.verdict for scored in scorer.rest()] == [Verdict.PASSED] * 3
    limits = {program.key: program.time_limit for program in runner.programs}
    assert limits["Own/0", 0] == 2.0 * TIMES_REFERENCE
    assert limits["Own/2", 0] == LEAST_SECONDS
    assert limits["Own/0", REFERENCE] > limits["Own/0", 0]


def test_a_failing_reference_solution_is_told(tmp_path: Path) -> None:
    problems = read_suite("humaneval", write_rows(tmp_path / "h.jsonl", HUMANEVAL)).problems

    def judge(program: Program) -> Outcome:
        failed = program.key == ("Own/1", REFERENCE)
        return Outcome(program.key, Verdict.ERROR, "ImportError: no fractions", 0.1) if failed else passed(program)

    scorer = Scorer(Runner(judge), problems)
    scorer.submit(Sample(problems[1], 0, "    return 4 * x\n", "completion"))
    assert [scored.verdict for scored in scorer.rest()] == [Verdict.PASSED]
    assert scorer.failing == {"Own/1": "error: ImportError: no fractions"}


# Verdicts are apart


@pytest.mark.parametrize(
    ("answer", "form", "cut", "verdict"),
    [
        ("", "completion", False, Verdict.NOTHING_EXTRACTED),
        ("  \n", "instruct", False, Verdict.NOTHING_EXTRACTED),
        ("I can't do that.", "instruct", False, Verdict.NOTHING_EXTRACTED),
        (fenced("ls\n", "bash"), "instruct", False, Verdict.NOTHING_EXTRACTED),
        ("First I think about", "instruct", True, Verdict.TRUNCATED),
        ("```python\n" + SIGNATURE + "    return sum(", "instruct", True, Verdict.TRUNCATED),
        ("    return sum(", "completion", True, Verdict.TRUNCATED),
        ("    return sum(", "completion", False, None),
        ("    return sum(numbers)\n    ", "completion", True, None),
    ],
)
def test_nothing_extracted_and_truncated(
    problem: CodeProblem, answer: str, form: str, cut: bool, verdict: Verdict | None
) -> None:
    found = extract(problem, answer, form, cut=cut)
    assert found.verdict is verdict
    assert (found.code is None) == (verdict is not None)


def test_broken_code_is_run_so_that_it_is_a_syntax_error(problem: CodeProblem) -> None:
    found = extract(problem, fenced(SIGNATURE + "    return sum(\n"), "instruct")
    assert found.code is not None
    assert parsed(found.code) is None


def test_answers_to_mbpp(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, MBPP[0], "mbpp")
    code = "def add_1(x):\n    return x + 1\n"
    assert outcome_of(problem, f"{code}[DONE]\n\nTask for", "completion") == "right"
    assert outcome_of(problem, fenced(code), "instruct") == "right"
    assert outcome_of(problem, f"{fenced('def add_1(x): ...' + chr(10))}{fenced(code)}", "auto") == "right"


@pytest.mark.parametrize("answer", ["(" * 100_000, "def f(:\n" * 20_000, "\0", "```" * 1000, "\ud800", "x" * 1_000_000])
def test_hostile_answers_are_read_in_no_time(problem: CodeProblem, answer: str) -> None:
    for form in ("completion", "instruct", "auto"):
        extract(problem, answer, form, cut=True)
