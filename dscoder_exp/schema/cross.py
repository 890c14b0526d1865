"""Keys that must agree with each other. Needs no machine, no file: only the typed configuration."""

from dscoder_exp.schema.config import Config, ModelConfig, ParallelConfig
from dscoder_exp.schema.errors import Problem


def cross_problems(config: Config) -> list[Problem]:
    """Every pair of keys that contradict each other; empty when all agree."""
    return [
        *_optim(config.optim.betas),
        *_parallel(config.parallel),
        *_model(config.model),
        *_sequence(config),
        *_predict(config),
    ]


def _optim(betas: list[float]) -> list[Problem]:
    if len(betas) == 2:
        return []
    return [Problem("optim.betas", f"must have two values, got {len(betas)}", "optim.betas=[0.9,0.95]")]


def _parallel(parallel: ParallelConfig) -> list[Problem]:
    product = parallel.data * parallel.tensor * parallel.context
    if product == parallel.ranks:
        return []
    sizes = f"data {parallel.data} * tensor {parallel.tensor} * context {parallel.context} = {product}"
    return [
        Problem(
            "parallel.ranks", f"{sizes}, but there are {parallel.ranks} ranks", f"parallel.ranks={product}, or other sizes"
        )
    ]


def _model(model: ModelConfig) -> list[Problem]:
    problems = []
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    if heads is not None and kv_heads is not None and heads % kv_heads:
        problems.append(
            Problem("model.num_key_value_heads", f"{kv_heads} doesn't divide model.num_attention_heads={heads}")
        )
    if heads is not None and model.hidden_size is not None and model.head_dim is None and model.hidden_size % heads:
        problems.append(
            Problem("model.num_attention_heads", f"{heads} doesn't divide model.hidden_size={model.hidden_size}")
        )
    if model.head_dim is not None and model.head_dim % 2:
        problems.append(
            Problem("model.head_dim", f"must be even, got {model.head_dim}", "rotary embedding turns halves against each other")
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(model, name)
        if token is not None and model.vocab_size is not None and token >= model.vocab_size:
            problems.append(Problem(f"model.{name}", f"{token} is outside model.vocab_size={model.vocab_size}"))
    return problems


def _sequence(config: Config) -> list[Problem]:
    """Packing bounds documents by the model's context; without it the sequence itself is the document."""
    context = config.model.max_position_embeddings
    if config.task.name == "predict" or config.data.packing or context is None or config.seq_length <= context:
        return []
    return [context_exceeded(config.seq_length, context)]


def context_exceeded(seq_length: int, context: int) -> Problem:
    """An unpacked sequence that is longer than the positions the model knows."""
    return Problem(
        "seq_length",
        f"{seq_length} is above the model's context of {context} tokens, and data.packing is off",
        f"data.packing=true (documents of at most {context} in sequences of {seq_length}), or seq_length={context}",
    )


def _predict(config: Config) -> list[Problem]:
    if config.task.name != "predict":
        return []
    problems = []
    if not config.predict.prompt:
        problems.append(Problem("predict.prompt", "task=predict has no prompt", 'predict.prompt="…"'))
    if config.parallel.ranks > 1:
        problems.append(
            Problem("parallel.ranks", f"predict runs in one process, not {config.parallel.ranks}", "parallel=single")
        )
    return problems
