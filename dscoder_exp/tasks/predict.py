"""task=predict: stream a model's answer to a prompt."""

from dscoder_exp.console import Screen
from dscoder_exp.data.encode import encode_prompts
from dscoder_exp.data.templates import template_named
from dscoder_exp.device.start import start_device
from dscoder_exp.generation.answers import answer
from dscoder_exp.generation.engine import Engine
from dscoder_exp.generation.sampling import Sampling
from dscoder_exp.parallel.collectives import join
from dscoder_exp.schema.config import Config
from dscoder_exp.schema.errors import refuse
from dscoder_exp.tasks.model_setup import set_up_model
from dscoder_exp.tasks.summary import print_speed
from dscoder_exp.tracking.run import open_run
from dscoder_exp.training.context import JobContext
from dscoder_exp.weights.lora.setup import open_adapted
from dscoder_exp.weights.resolve import open_tokenizer, text_setup


def run(config: Config) -> float:
    """Generate the answer, the only text on stdout; returns the number of new tokens per second."""
    predict, runtime = config.predict, config.runtime
    start_device(runtime.device, jit_level=runtime.jit_level, deterministic=runtime.deterministic)
    opened = open_adapted(config)
    mesh = join(config.parallel, runtime.device, opened.config.num_key_value_heads)
    rank, screen = mesh.topology.rank, Screen(quiet=mesh.topology.rank != 0)
    text = text_setup(opened.config, open_tokenizer(config.tokenizer, opened))
    chosen = {"auto": opened.template, "none": None}.get(predict.template, predict.template)
    template = template_named(chosen)
    request = template.render_prompt(predict.prompt or "")
    (prompt,) = encode_prompts(text.tokenizer, template, [request], text.bos_token_id, text.eos_token_id)
    room = opened.config.max_position_embeddings - len(prompt)
    if room < 1:
        context = opened.config.max_position_embeddings
        what = f"the prompt's {len(prompt)} tokens leave no room for an answer in the model's context of {context}"
        raise refuse("predict.prompt", what, "give a shorter prompt")
    with open_run(config.tracking, rank, mesh.topology.ranks) as run:
        model = set_up_model(JobContext(config, mesh, run, screen), opened, frozen=True)
        result = answer(
            Engine(model),
            text.tokenizer,
            prompt,
            max_new_tokens=min(predict.max_new_tokens, room),
            sampling=Sampling(predict.temperature, predict.top_k, predict.top_p, config.seed),
            eos_token_id=text.eos_token_id,
            on_text=screen.write,
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
