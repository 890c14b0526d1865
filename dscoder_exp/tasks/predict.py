"""task=predict: a model's answers to a prompt, to a file of prompts, or in a conversation."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dscoder_exp.console import Screen
from dscoder_exp.data.prompt_format import PromptFormat, choose_format
from dscoder_exp.data.requests import PromptRow, Requests, read_requests
from dscoder_exp.device.start import start_device
from dscoder_exp.generation.answer_file import AnswerFile, Place, answered_rows, origin_of, which_sample
from dscoder_exp.generation.answers import Answer, Answering, Ending, Speed, speed_of
from dscoder_exp.generation.batching import Batch
from dscoder_exp.generation.chat import Chat
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.model.llama import Llama
from dscoder_exp.parallel.collectives import join
from dscoder_exp.schema.config import Config, PredictConfig
from dscoder_exp.signals import ends_at_once
from dscoder_exp.tasks.conversation import converse
from dscoder_exp.tasks.model_setup import set_up_model
from dscoder_exp.tasks.summary import (
    print_beyond,
    print_format,
    print_requests,
    print_sampling,
    print_speed,
    print_tokens,
)
from dscoder_exp.tracking.run import Run, open_run
from dscoder_exp.tracking.table import log_table
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.resolve import TextSetup, open_text_setup

TABLE = "predictions/answers.json"
MAX_TABLE_ROWS = 1000  # of the table in MLflow; the output file has all


def run(config: Config) -> float | None:
    """Generate the answers; returns the number of new tokens per second, None where there were none to generate.

    stdout gets nothing but answers, or the conversation.
    """
    predict, runtime = config.predict, config.runtime
    start_device(runtime.device, jit_level=runtime.jit_level, deterministic=runtime.deterministic)
    opened = open_adapted(config)
    with ends_at_once():  # it waits for the other ranks
        mesh = join(config.parallel, runtime.device, opened.config.num_key_value_heads)
    rank, screen = mesh.topology.rank, Screen(quiet=mesh.topology.rank != 0)
    text = open_text_setup(config.model, config.tokenizer, opened)
    print_beyond(screen, text)
    prompt_format = choose_format(text, predict.template, "predict.template")
    context = opened.config.max_position_embeddings
    requests = read_requests(predict, prompt_format, text.tokenizer, context)
    if predict.prefix is None and predict.suffix is None:
        print_format(screen.remark, prompt_format, "predict.template")
    print_tokens(screen, text, prompt_format)
    print_sampling(screen, predict)
    print_requests(screen, requests)
    answering = _answering(config, text, prompt_format, requests, context)
    with open_run(config.tracking, config.output_dir, rank) as run:
        job = JobContext(config, mesh, run, screen)

        def model() -> Llama:
            return set_up_model(job, opened, frozen=True)

        if predict.input is not None:
            speed = _answer_file(job, requests.rows, answering, model)
        elif predict.interactive:
            speed = _converse(job, prompt_format, answering, model())
        else:
            speed = _answer_prompt(job, requests.rows[0], answering, model())
        if speed is not None:
            _record(run, speed)
            print_speed(screen, speed)
    return None if speed is None else speed.tokens_per_s


def _answering(
    config: Config, text: TextSetup, prompt_format: PromptFormat, requests: Requests, context: int
) -> Answering:
    predict = config.predict
    stops = {*prompt_format.stop_token_ids, *predict.stop_token_ids, *requests.ends}
    ending = Ending(stops, predict.stop, prompt_format.control_ids)
    return Answering(text.tokenizer, ending, context, predict.max_new_tokens, config.seed)


def sampling_of(predict: PredictConfig) -> Sampling:
    return Sampling(predict.temperature, predict.top_k, predict.top_p, predict.min_p, predict.repetition_penalty)


def _answer_prompt(job: JobContext, row: PromptRow, answering: Answering, model: Llama) -> Speed:
    """Answer one prompt: stream the answer, or print several, one after another."""
    predict, screen = job.config.predict, job.screen

    def show(text: str) -> None:
        screen.write(text)
        if not screen.is_read:
            sys.exit(0)

    count = predict.num_samples
    shown = {"on_text": show} if count == 1 else {}
    answers = [answering.answer(row.ids, sample, **shown) for sample in range(count)]
    batch = Batch(Engine(model, min(predict.batch_size, count)), sampling_of(predict))
    started = time.perf_counter()
    with ends_at_once():
        for _ in batch.run(answers):
            pass
    seconds = time.perf_counter() - started
    for number, answer in enumerate(answers if count > 1 else [], 1):
        show(f"{'' if number == 1 else chr(10)}--- {number} of {count}\n{answer.text}\n")
    if count == 1:
        screen.print()
    log_table(job.run, [_table_row(row.fields, one.fields(), n, count) for n, one in enumerate(answers)], TABLE)
    return speed_of(answers, seconds, batch.compile_s, batch.prefill_compile_s)


def _answer_file(
    job: JobContext, rows: Sequence[PromptRow], answering: Answering, load: Callable[[], Llama]
) -> Speed | None:
    """Answer the prompts of predict.input that have no answer yet, and write predict.output.

    Rank 0 keeps the answers, and says which are there; every rank generates all the others.
    """
    predict, screen, samples = job.config.predict, job.screen, job.config.predict.num_samples
    output = Path(predict.output or "")
    places = [(number, sample) for number in range(len(rows)) for sample in range(samples)]
    with AnswerFile(output, origin_of(job.config)) if job.mesh.topology.rank == 0 else nullcontext() as file:
        kept = job.mesh.sums(*(float(file is not None and place in file.answers) for place in places))
        left = {
            place: answering.answer(rows[place[0]].ids, place[1])
            for place, is_kept in zip(places, kept, strict=True)
            if not is_kept
        }
        if len(left) < len(places):
            screen.remark(f"going on: {len(places) - len(left)} of {len(places)} answers are there")
        try:
            speed = _generate(job, load(), left, file, len(places)) if left else None
            if file is not None:
                file.finish(answered_rows(rows, samples, file.answers))
        except BaseException:
            if file is not None:
                kept_now = f"{len(file.answers)} of {len(places)} answers are kept"
                screen.remark(f"{kept_now}; the same command goes on after them")
            raise
        if file is not None:
            shown = places[:MAX_TABLE_ROWS]
            found = [_table_row(rows[row].fields, file.answers[row, n], n, samples) for row, n in shown]
            log_table(job.run, found, TABLE)
    screen.print(f"answers  {output} ({len(places)})")
    return speed


def _generate(
    job: JobContext, model: Llama, answers: Mapping[Place, Answer], file: AnswerFile | None, count: int
) -> Speed:
    """Generate the answers, and keep each in the file as it ends; count: with those that are there already."""
    by_id = {id(answer): (place, answer) for place, answer in answers.items()}
    predict, screen = job.config.predict, job.screen
    batch = Batch(Engine(model, min(predict.batch_size, len(answers))), sampling_of(predict))
    started = time.perf_counter()
    with screen.stage("answering", count, count - len(answers)) as stage:
        for finished in batch.run(list(answers.values())):
            note = f"{batch.tokens / (time.perf_counter() - started - batch.compile_s):.1f} tokens/s"
            stage.note(note)
            for place, answer in (by_id[id(row)] for row in finished):
                if file is not None:
                    file.add(place, answer.fields())
                stage.advance(note)
    seconds = time.perf_counter() - started
    return speed_of(list(answers.values()), seconds, batch.compile_s, batch.prefill_compile_s)


def _converse(job: JobContext, prompt_format: PromptFormat, answering: Answering, model: Llama) -> Speed | None:
    """Hold a conversation."""
    batch = Batch(Engine(model), sampling_of(job.config.predict), keep_answers=True)
    turns = converse(Chat(batch, prompt_format, answering), job.screen)
    if turns:
        log_table(job.run, [_table_row({"prompt": prompt}, answer.fields()) for prompt, answer in turns], TABLE)
    answers = [answer for _, answer in turns if answer.tokens]
    seconds = sum(answer.seconds for answer in answers)
    return speed_of(answers, seconds, batch.compile_s, batch.prefill_compile_s) if answers else None


def _table_row(
    fields: Mapping[str, Any], answer: Mapping[str, Any], sample: int = 0, samples: int = 1
) -> dict[str, Any]:
    """A row of the table in MLflow: the prompt, as text, its answer, and which of several samples it is."""
    prompt = fields.get("prompt")
    text = prompt if isinstance(prompt, str) else json.dumps(fields, ensure_ascii=False)
    return {"prompt": text, **which_sample(sample, samples), **answer}


def _record(run: Run, speed: Speed) -> None:
    values = {
        "predict/tokens_per_s": speed.tokens_per_s,
        "predict/prefill_tokens_per_s": speed.prefill_tokens_per_s,
        "predict/first_token_s": speed.first_token_s,
        "predict/answers": speed.answers,
        "predict/tokens": speed.tokens,
    }
    run.metrics(values, step=0)
