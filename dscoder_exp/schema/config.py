"""Types, limits and meanings of all configuration keys; conf/ holds their values.

No field but those of model.rope_scaling has a default: values are set only in the YAML files of conf/. Nothing here
imports mindspore.
"""

from dataclasses import dataclass, field
from typing import Optional

from dscoder_exp.schema.bounds import bound

WITHOUT_DEVICE = ("prepare", "convert", "compare")  # tasks that compute on no device and have no ranks
SUITES = ("humaneval", "humaneval+", "mbpp", "mbpp+")  # of programs: evaluation/suites.py
LOSS = "loss"  # the suite that has no programs
TEMPLATES = ("deepseek_coder", "deepseek_coder_instruct", "chatml", "alpaca", "none")  # data/chat_templates/
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # a block's matrices, in order
MAX_DOCUMENTS = 2048  # per call of attention on Ascend (documentation of aclnnFlashAttentionVarLenScore)
TEMPLATE_FILE = ".jinja"  # suffix of a file that holds a prompt format


@dataclass
class TaskConfig:
    """conf/task: which recipe runs."""

    name: str = field(metadata=bound(choices=("train", "prepare", "convert", "predict", "evaluate", "compare")))
    in_process: bool  # run in the launcher's parent process instead of a new one


@dataclass
class RopeScalingConfig:
    """How rotary frequencies are stretched to a longer context, by transformers' names (schema/llama.py: RopeScaling).

    null: none. Only here fields have defaults: which of them are needed depends on the type, and conf/ holds none.
    """

    type: str = field(metadata=bound(choices=("linear", "llama3", "yarn")))
    factor: float = field(metadata=bound(ge=1.0))
    original_max_position_embeddings: Optional[int] = field(default=None, metadata=bound(ge=1))
    low_freq_factor: Optional[float] = field(default=None, metadata=bound(gt=0))
    high_freq_factor: Optional[float] = field(default=None, metadata=bound(gt=0))
    beta_fast: Optional[float] = field(default=None, metadata=bound(gt=0))
    beta_slow: Optional[float] = field(default=None, metadata=bound(gt=0))
    attention_factor: Optional[float] = field(default=None, metadata=bound(gt=0))
    mscale: Optional[float] = field(default=None, metadata=bound(ge=0))
    mscale_all_dim: Optional[float] = field(default=None, metadata=bound(ge=0))
    truncate: Optional[bool] = None


@dataclass
class ModelConfig:
    """conf/model: the shape, by Hugging Face's names (null: read from model.path), and the weights' path."""

    path: Optional[str]  # HF or native directory, .gguf file, hf://OWNER/NAME[@REVISION], or pkg://PACKAGE/FILE
    init: str = field(metadata=bound(choices=("pretrained", "random")))  # random: from `seed`, if path is null
    template: Optional[str] = field(metadata=bound(choices=TEMPLATES, file=TEMPLATE_FILE))  # its prompt format
    vocab_size: Optional[int] = field(metadata=bound(ge=1))
    hidden_size: Optional[int] = field(metadata=bound(ge=1))
    intermediate_size: Optional[int] = field(metadata=bound(ge=1))
    num_hidden_layers: Optional[int] = field(metadata=bound(ge=1))
    num_attention_heads: Optional[int] = field(metadata=bound(ge=1))
    num_key_value_heads: Optional[int] = field(metadata=bound(ge=1))
    head_dim: Optional[int] = field(metadata=bound(ge=2))
    max_position_embeddings: Optional[int] = field(metadata=bound(ge=1))  # the longest document, in tokens
    rms_norm_eps: Optional[float] = field(metadata=bound(gt=0))
    rope_theta: Optional[float] = field(metadata=bound(gt=0))
    rope_scaling: Optional[RopeScalingConfig]
    tie_word_embeddings: Optional[bool]
    bos_token_id: Optional[int] = field(metadata=bound(ge=0))
    eos_token_id: Optional[int] = field(metadata=bound(ge=0))
    pad_token_id: Optional[int] = field(metadata=bound(ge=0))


@dataclass
class TokenizerConfig:
    path: Optional[str]  # directory, tokenizer.json or hf://OWNER/NAME[@REVISION]; null: the one of model.path


@dataclass
class DataConfig:
    """conf/data: how rows become packed sequences of tokens."""

    source: Optional[str]  # rows (.json, .jsonl, .csv, .parquet), a .txt or .md file, or a directory of text files
    columns: Optional[dict[str, str]]  # where the keys of a row have other names: {prompt: question, response: answer}
    bad_rows: str = field(metadata=bound(choices=("refuse", "drop")))  # what isn't a row, or the template doesn't take
    template: Optional[str] = field(metadata=bound(choices=TEMPLATES, file=TEMPLATE_FILE))
    special_tokens: str = field(metadata=bound(choices=("text", "allow")))  # what <|im_end|> in a row is
    loss: str = field(metadata=bound(choices=("response", "all")))  # positions whose loss counts
    packing: bool  # several documents in one sequence; positions restart at each, attention stays within each
    eval_fraction: float = field(metadata=bound(ge=0.0, lt=1.0))  # of the rows, chosen by a hash of the row's text
    max_rows: Optional[int] = field(metadata=bound(ge=1))
    overlong: str = field(metadata=bound(choices=("drop", "truncate")))  # too long documents; truncating keeps the EOS
    output: Optional[str]  # directory of the MindRecord files; null: a directory in runtime.cache_dir, named by a hash


@dataclass
class OptimConfig:
    """conf/optim: AdamW with decoupled decay, and its learning-rate schedule."""

    lr: float = field(metadata=bound(gt=0))
    betas: list[float] = field(metadata=bound(ge=0, lt=1))
    eps: float = field(metadata=bound(gt=0))
    weight_decay: float = field(metadata=bound(ge=0))
    decay_norms: bool  # whether the norms' weights decay, too
    clip_norm: Optional[float] = field(metadata=bound(gt=0))  # global gradient norm; null: no clipping
    schedule: str = field(metadata=bound(choices=("constant", "linear", "cosine", "wsd")))
    warmup_ratio: float = field(metadata=bound(ge=0, lt=1))  # of the optimizer steps, from lr 0
    warmup_steps: Optional[int] = field(metadata=bound(ge=0))  # overrides warmup_ratio
    decay_ratio: float = field(metadata=bound(gt=0, le=1))  # wsd: last fraction of the steps, in which lr decays
    min_lr_ratio: float = field(metadata=bound(ge=0, le=1))  # final lr, as a fraction of lr


@dataclass
class AdapterConfig:
    """conf/adapter: LoRA's settings; null with type none."""

    type: str = field(metadata=bound(choices=("none", "lora")))
    path: Optional[str]  # adapter in PEFT's format; lora: training continues from it; none: merged into the weights
    r: Optional[int] = field(metadata=bound(ge=1))  # rank of the factors
    alpha: Optional[float] = field(metadata=bound(gt=0))  # the factors' product is scaled by alpha / r
    dropout: Optional[float] = field(metadata=bound(ge=0, lt=1))  # of the factors' input, in training
    target_modules: Optional[list[str]] = field(metadata=bound(choices=MODULES))  # matrices with factors


@dataclass
class TrainConfig:
    """conf/train: length, batch sizes, evaluation and checkpoints of training."""

    epochs: float = field(metadata=bound(gt=0))
    max_steps: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; overrides epochs
    global_batch_size: int = field(metadata=bound(ge=1))  # sequences per optimizer step, over all ranks
    micro_batch_size: int = field(metadata=bound(ge=1))  # sequences per data-parallel rank and micro step
    recompute: str = field(metadata=bound(choices=("none", "selective", "full")))  # in a block's backward
    eval_every: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; null: only before and after training
    max_eval_sequences: Optional[int] = field(metadata=bound(ge=1))
    save_every: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; null: only weights, at the end
    keep_last: Optional[int] = field(metadata=bound(ge=1))  # newest checkpoints kept, besides the best; null: all
    resume: Optional[str] = field(metadata=bound(choices=("auto",)))  # from output_dir's last checkpoint, if any
    evaluate: Optional[str] = field(metadata=bound(choices=SUITES))  # suite that checkpoints are scored by
    evaluate_every: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; null: only at the end
    prompts: list[str]  # answered before and after training
    prompt_tokens: int = field(metadata=bound(ge=1))  # max new tokens per answer


@dataclass
class PredictConfig:
    """conf/predict: the prompts, and how their answers are sampled. Greedy if temperature is 0."""

    prompt: Optional[str]
    input: Optional[str]  # file of prompts: .jsonl (rows with prompt or messages), or .txt (a prompt a line)
    output: Optional[str]  # file of answers to predict.input, .jsonl
    prefix: Optional[str]  # fill-in-the-middle: what stands before the answer
    suffix: Optional[str]  # and what stands after it
    interactive: bool  # a conversation in the terminal
    template: str = field(metadata=bound(choices=("auto", *TEMPLATES), file=TEMPLATE_FILE))
    skip_bad: bool  # leave bad rows of predict.input out, rather than refuse the file
    batch_size: int = field(metadata=bound(ge=1))  # prompts answered at a time
    num_samples: int = field(metadata=bound(ge=1))  # answers to each prompt
    max_new_tokens: int = field(metadata=bound(ge=1))
    stop_token_ids: list[int] = field(metadata=bound(ge=0))  # end an answer, besides the model's and the format's
    stop: list[str]  # texts that end an answer, and are no part of it
    temperature: float = field(metadata=bound(ge=0))
    top_k: Optional[int] = field(metadata=bound(ge=0))  # 0 or null: all tokens
    top_p: Optional[float] = field(metadata=bound(ge=0, le=1))
    min_p: Optional[float] = field(metadata=bound(ge=0, le=1))
    repetition_penalty: float = field(metadata=bound(gt=0, le=100))


@dataclass
class EvaluateConfig:
    """conf/evaluate: the problems, how a model is asked, and how its programs are run. Greedy if temperature is 0."""

    suite: str = field(metadata=bound(choices=(*SUITES, LOSS)))
    source: Optional[str]  # the suite's file; loss: rows, null: those held out of data.source
    output: str  # directory of results.jsonl, evaluation.json and evaluation.html
    completions: Optional[str]  # file of completions (task_id, completion) to score instead of a model's
    baseline: Optional[str]  # directory of an earlier evaluation, compared by McNemar's test
    prompt: str = field(metadata=bound(choices=("auto", "completion", "instruct")))
    instruction: Optional[str]  # text of the request, with {prompt} in it; null: ours
    max_problems: Optional[int] = field(metadata=bound(ge=1))  # the first ones; null: all
    batch_size: int = field(metadata=bound(ge=1))  # answers generated at a time
    num_samples: int = field(metadata=bound(ge=1))  # answers to each problem
    k: Optional[int] = field(metadata=bound(ge=1))  # of pass@k; null: num_samples
    max_new_tokens: int = field(metadata=bound(ge=1))
    temperature: float = field(metadata=bound(ge=0))
    top_p: Optional[float] = field(metadata=bound(ge=0, le=1))
    sandbox: str = field(metadata=bound(choices=("auto", "strict")))  # strict: refused where it isn't complete
    jobs: Optional[int] = field(metadata=bound(ge=1))  # programs run at a time; null: the number of cores


@dataclass
class WeightsConfig:
    """conf/weights: what task=convert reads and writes, and mismatches that any task allows when it loads weights."""

    source: Optional[str]
    target: Optional[str]
    format: str = field(metadata=bound(choices=("hf", "native", "mindformers")))
    tensor: int = field(metadata=bound(ge=1))  # native: tensor-parallel ranks that the tensors are sliced for
    max_shard_size: str  # hf, and mindformers' safetensors: largest size of a file, such as 5GB
    ckpt_format: str = field(metadata=bound(choices=("safetensors", "ckpt")))  # mindformers: the kind of file
    merge_adapter: Optional[str]  # LoRA adapter that is merged into the written weights
    allow: list[str]  # shell patterns of tensor names that may be missing or unexpected when any task loads a model


@dataclass
class CompareConfig:
    """conf/compare: which runs of tracking.uri task=compare reads: at most one of the three; none: the last sweep."""

    experiment: Optional[str]  # name of an MLflow experiment: all its runs
    runs: list[str]  # ids of runs
    sweep: Optional[str]  # id of a sweep's parent run: its jobs' runs
    output: Optional[str]  # directory of the report, which must be new or empty; null: output_dir/compare


@dataclass
class ParallelConfig:
    """conf/parallel: number of ranks of each kind of parallelism."""

    data: int = field(metadata=bound(ge=1))
    tensor: int = field(metadata=bound(ge=1))
    context: int = field(metadata=bound(ge=1))
    sequence: bool  # sequence parallelism: tensor ranks also split the rows of norms and residuals

    @property
    def ranks(self) -> int:
        """Number of ranks (processes) of a job."""
        return self.data * self.tensor * self.context


@dataclass
class RuntimeConfig:
    """conf/runtime: the device and how it computes."""

    device: str = field(metadata=bound(choices=("cpu", "ascend")))
    precision: str = field(metadata=bound(choices=("fp32", "bf16", "fp16")))
    jit_level: str = field(metadata=bound(choices=("O0", "O1")))  # of compiled functions; O1 fuses operators
    deterministic: bool  # runs on NPUs are bitwise reproducible, and slower; those on a CPU always are
    threads: Optional[int] = field(metadata=bound(ge=1))  # CPU threads per rank; null: cores / local ranks
    bind_core: bool  # bind each of several local ranks to its own cores; the launcher reads it
    cache_dir: str  # prepared data
    peak_tflops: Optional[float] = field(metadata=bound(gt=0))  # of a device, in `precision`; null: no perf/mfu


@dataclass
class TrackingConfig:
    """conf/tracking: the MLflow run."""

    enabled: bool
    uri: str  # MLflow tracking URI; MLFLOW_TRACKING_URI overrides it
    experiment: str
    run_id: Optional[str] = field(metadata=bound(set_at_launch=True))
    parent_run_id: Optional[str] = field(metadata=bound(set_at_launch=True))


@dataclass
class Config:
    """The whole configuration of a task. Groups use the top-level keys by interpolation."""

    name: str  # the MLflow run's name
    seed: int = field(metadata=bound(ge=0))
    seq_length: int = field(metadata=bound(ge=2))  # tokens per training sequence
    output_dir: str  # directory of all that a job writes
    task: TaskConfig
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    optim: OptimConfig
    adapter: AdapterConfig
    train: TrainConfig
    predict: PredictConfig
    evaluate: EvaluateConfig
    weights: WeightsConfig
    compare: CompareConfig
    parallel: ParallelConfig
    runtime: RuntimeConfig
    tracking: TrackingConfig

    @property
    def accumulation_steps(self) -> int:
        """Micro steps per optimizer step."""
        return self.train.global_batch_size // (self.train.micro_batch_size * self.parallel.data)
