"""Checks of config keys against each other. They use only the typed configuration, no files or devices."""

from dscoder_exp.schema.bounds import parse_size
from dscoder_exp.schema.config import WITHOUT_DEVICE, AdapterConfig, Config, ModelConfig, PredictConfig
from dscoder_exp.schema.cross_evaluate import evaluate_problems, measures_loss, scores_given
from dscoder_exp.schema.errors import Problem

# FlashAttentionScore takes fp16 and bf16 by MindSpore's page on it (CANN's on the kernel names fp32, too); RmsNorm, its
# gradient and RotaryPositionEmbedding take all three. task=predict computes without flash attention.
NO_FP32 = Problem(
    "runtime.precision",
    "fp32 has no flash attention on an NPU",
    "runtime.precision=bf16, or runtime=ascend, which sets both",
)


def cross_problems(config: Config) -> list[Problem]:
    """All contradictions between keys; empty if there are none."""
    return [
        *_optim(config.optim.betas),
        *_adapter(config.adapter),
        *_parallel(config),
        *_precision(config),
        *_model(config.model),
        *context_problems(config, config.model.max_position_embeddings),
        *_predict(config),
        *evaluate_problems(config),
        *_convert(config),
        *compare_problems(config),
    ]


def _optim(betas: list[float]) -> list[Problem]:
    if len(betas) == 2:
        return []
    return [Problem("optim.betas", f"must have two values, got {len(betas)}", "optim.betas=[0.9,0.95]")]


def _adapter(adapter: AdapterConfig) -> list[Problem]:
    """Keys that would have no effect, and values that LoRA needs but are missing."""
    keys = {name: getattr(adapter, name) for name in ("r", "alpha", "dropout", "target_modules")}
    if adapter.type == "none":
        given = [name for name, value in keys.items() if value is not None]
        what = "is given, but adapter=none trains the weights themselves"
        return [Problem(f"adapter.{name}", what, "adapter=lora, or leave it out") for name in given]
    empty = [name for name, value in keys.items() if value is None or value == []]
    return [
        Problem(f"adapter.{name}", "adapter=lora needs a value", "leave it out: conf/adapter/lora.yaml has one")
        for name in empty
    ]


def _parallel(config: Config) -> list[Problem]:
    parallel, problems = config.parallel, []
    if config.task.name in WITHOUT_DEVICE or scores_given(config):  # one process runs, whatever `parallel` says
        return []
    if config.task.in_process and parallel.ranks > 1 and not config.predict.interactive:
        what = f"true, but a job of {parallel.ranks} ranks needs processes of its own"
        problems.append(Problem("task.in_process", what, "leave it out, or parallel=single"))
    return [*problems, *_batch(config), *_divisibility(config)] if config.task.name == "train" else problems


def _batch(config: Config) -> list[Problem]:
    """The global batch size must be a multiple of micro batch size times data-parallel ranks."""
    total, micro, data = config.train.global_batch_size, config.train.micro_batch_size, config.parallel.data
    at_once = micro * data
    if total % at_once == 0:
        return []
    what = f"{total} sequences are not a multiple of train.micro_batch_size={micro} x parallel.data={data}"
    nearest = [size for size in (total // at_once * at_once, -(-total // at_once) * at_once) if size]
    remedy = f"train.global_batch_size={' or '.join(map(str, nearest))}"
    smaller = [size for size in range(1, micro) if total % (size * data) == 0]
    if smaller:
        remedy += f", or train.micro_batch_size={smaller[-1]}"
    return [Problem("train.global_batch_size", what, remedy)]


def _divisibility(config: Config) -> list[Problem]:
    """Positions must divide by context-parallel ranks, and rows of a micro batch by tensor-parallel ranks."""
    parallel, problems = config.parallel, []
    if config.seq_length % parallel.context:
        what = f"{config.seq_length} positions can't be split evenly over parallel.context={parallel.context} ranks"
        problems.append(Problem("seq_length", what, f"a multiple of {parallel.context}"))
    rows = config.train.micro_batch_size * config.seq_length // parallel.context
    if parallel.sequence and rows % parallel.tensor:
        remedy = f"parallel.sequence=false, or a seq_length that is a multiple of {parallel.tensor}"
        what = f"{rows} rows of a micro batch can't be split evenly over parallel.tensor={parallel.tensor} ranks"
        problems.append(Problem("parallel.sequence", what, remedy))
    return problems


def _precision(config: Config) -> list[Problem]:
    """Training in fp32 has no attention on an NPU."""
    runtime, task = config.runtime, config.task.name
    if task in WITHOUT_DEVICE or scores_given(config):
        return []
    generates = task == "predict" or (task == "evaluate" and not measures_loss(config))
    if runtime.device == "ascend" and runtime.precision == "fp32" and not generates:
        return [NO_FP32]
    return []


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
            Problem(
                "model.head_dim",
                f"must be even, got {model.head_dim}",
                "rotary embedding pairs the two halves of a head",
            )
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(model, name)
        if token is not None and model.vocab_size is not None and token >= model.vocab_size:
            problems.append(Problem(f"model.{name}", f"{token} is outside model.vocab_size={model.vocab_size}"))
    return problems


def context_problems(config: Config, context: int | None) -> list[Problem]:
    """seq_length must not exceed the model's context (None: not known yet) without packing.

    With packing, each document is limited to the model's context; without it, a sequence is one document.
    """
    length = config.seq_length
    reads_rows = config.task.name in ("train", "prepare") or measures_loss(config)
    if not reads_rows or config.data.packing or context is None or length <= context:
        return []
    what = f"{length} is above the model's context of {context} tokens, and data.packing is off"
    remedy = f"data.packing=true (documents of at most {context} in sequences of {length}), or seq_length={context}"
    return [Problem("seq_length", what, remedy)]


def _predict(config: Config) -> list[Problem]:
    if config.task.name != "predict":
        return []
    problems = [*asked_problems(config.predict)]
    for name in ("data", "context"):
        if (size := getattr(config.parallel, name)) > 1:
            what = f"{size}, but task=predict supports only tensor parallelism"
            problems.append(Problem(f"parallel.{name}", what, f"parallel=tp{size}, or parallel=single"))
    if config.predict.interactive and config.parallel.tensor > 1:
        what = f"a conversation needs one process, and parallel.tensor={config.parallel.tensor} has several"
        problems.append(Problem("predict.interactive", what, "parallel=single, or predict.input=FILE"))
    return problems


def asked_problems(predict: PredictConfig) -> list[Problem]:
    """Problems of what is asked: one prompt, a middle to fill in, a file of prompts, or a conversation."""
    infills = predict.prefix is not None or predict.suffix is not None
    given = {"prompt": predict.prompt is not None, "prefix": infills, "input": predict.input is not None}
    keys = [f"predict.{name}" for name, is_given in {**given, "interactive": predict.interactive}.items() if is_given]
    problems = []
    if not keys:
        remedy = 'predict.prompt="…", predict.input=FILE.jsonl predict.output=FILE.jsonl, or predict.interactive=true'
        problems.append(Problem("predict.prompt", "task=predict has no prompt", remedy))
    if len(keys) > 1:
        what = f"given beside {' and '.join(keys[:-1])}, but one run answers only one of them"
        problems.append(Problem(keys[-1], what, "give one of them"))
    for name in ("prompt", "prefix", "suffix"):
        if any("\ud800" <= character <= "\udfff" for character in getattr(predict, name) or ""):
            problems.append(Problem(f"predict.{name}", "not UTF-8 text", f"predict.{name}=… in UTF-8; or PYTHONUTF8=1"))
    if predict.prompt is not None and not predict.prompt.strip():
        problems.append(Problem("predict.prompt", "the prompt is empty", 'predict.prompt="…"'))
    if infills and not f"{predict.prefix or ''}{predict.suffix or ''}".strip():
        problems.append(Problem("predict.prefix", "prefix and suffix are both empty", 'predict.prefix="…"'))
    if predict.input is not None and predict.output is None:
        what = "task=predict has no file to write the answers to"
        problems.append(Problem("predict.output", what, "predict.output=FILE.jsonl"))
    if predict.output is not None and predict.input is None:
        problems.append(Problem("predict.output", "is for answers to predict.input", "predict.input=FILE.jsonl"))
    if predict.interactive and predict.num_samples > 1:
        what = f"{predict.num_samples}, but a conversation has one answer to a prompt"
        problems.append(Problem("predict.num_samples", what, "leave it out"))
    if "" in predict.stop:
        problems.append(Problem("predict.stop", "an empty text would end every answer at once", "leave it out"))
    return problems


def _convert(config: Config) -> list[Problem]:
    if config.task.name != "convert":
        return []
    weights, problems = config.weights, []
    if config.adapter.path is not None:
        problems.append(Problem("adapter.path", "task=convert doesn't use this key", "weights.merge_adapter=DIR"))
    if not weights.source:
        remedy = "weights.source=DIR (Hugging Face or native directory, .gguf or .ckpt file)"
        problems.append(Problem("weights.source", "task=convert needs weights to read", remedy))
    if not weights.target:
        problems.append(Problem("weights.target", "task=convert needs a directory to write to", "weights.target=DIR"))
    if weights.format != "native" and weights.tensor > 1:
        what = f"{weights.tensor}, but only weights.format=native can be sliced over ranks, not {weights.format}"
        problems.append(Problem("weights.tensor", what, "weights.format=native, or weights.tensor=1"))
    if parse_size(weights.max_shard_size) is None:
        what = f"{weights.max_shard_size!r} is not a size"
        problems.append(Problem("weights.max_shard_size", what, "weights.max_shard_size=5GB"))
    return problems


def compare_problems(config: Config) -> list[Problem]:
    """Which runs task=compare reads is said in one way, or not at all."""
    compare = config.compare
    given = {"experiment": compare.experiment, "runs": compare.runs, "sweep": compare.sweep}
    keys = [f"compare.{name}" for name, value in given.items() if value not in (None, [])]
    if config.task.name != "compare" or len(keys) <= 1:
        return []
    return [Problem(keys[-1], f"given beside {' and '.join(keys[:-1])}", "give one of them, or none: the last sweep")]
