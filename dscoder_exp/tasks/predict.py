"""task=predict: stream a model's answer to a prompt."""

import sys

from dscoder_exp.console import Screen
from dscoder_exp.data.prompt_format import choose_format
from dscoder_exp.device.start import start_device
from dscoder_exp.generation.answers import answer
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.parallel.collectives import join
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse
from dscoder_exp.signals import ends_at_once
from dscoder_exp.tasks.model_setup import set_up_model
from dscoder_exp.tasks.summary import print_beyond, print_speed, print_tokens
from dscoder_exp.tracking.run import open_run
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.resolve import open_text_setup


def run(config: Config) -> float:
    """Generate the answer, the only text on stdout; returns the number of new tokens per second."""
    predict, runtime = config.predict, config.runtime
    start_device(runtime.device, jit_level=runtime.jit_level, deterministic=runtime.deterministic)
    opened = open_adapted(config)
    with ends_at_once():  # it waits for the other ranks
        mesh = join(config.parallel, runtime.device, opened.config.num_key_value_heads)
    rank, screen = mesh.topology.rank, Screen(quiet=mesh.topology.rank != 0)
    text = open_text_setup(config.model, config.tokenizer, opened)
    print_beyond(screen, text)
    prompt_format = choose_format(text, predict.template, "predict.template")
    prompt = prompt_format.request(predict.prompt or "")
    room = opened.config.max_position_embeddings - len(prompt)
    if room < 1:
        context = opened.config.max_position_embeddings
        what = f"the prompt's {len(prompt)} tokens leave no room for an answer in the model's context of {context}"
        raise refuse("predict.prompt", what, "give a shorter prompt")

    def show(answer: str) -> None:
        screen.write(answer)
        if not screen.is_read:
            sys.exit(0)

    print_tokens(screen, text, prompt_format)
    with open_run(config.tracking, config.output_dir, rank) as run:
        model = set_up_model(JobContext(config, mesh, run, screen), opened, frozen=True)
        with ends_at_once():
            result = answer(
                Engine(model),
                text.tokenizer,
                prompt,
                max_new_tokens=min(predict.max_new_tokens, room),
                sampling=Sampling(predict.temperature, predict.top_k, predict.top_p, config.seed),
                stop_token_ids={*prompt_format.stop_token_ids, *predict.stop_token_ids},
                on_text=show,
            )
        run.metrics(
            {
                "predict/tokens_per_s": result.tokens_per_s,
                "predict/prefill_tokens_per_s": result.prefill_tokens_per_s,
                "predict/first_token_s": result.first_token_s,
            },
            step=0,
        )
        run.text(f"{predict.prompt}\n\n---\n\n{result.text}\n", "predictions/answer.md")
    screen.print()
    print_speed(screen, result)
    return result.tokens_per_s
