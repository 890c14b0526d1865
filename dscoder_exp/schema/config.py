"""The shape of the whole configuration. conf/ holds the values; here are types, limits and meanings.

No field has a default: a value's one home is its YAML file in conf/. Nothing here imports mindspore.
"""

from dataclasses import dataclass, field
from typing import Optional

from dscoder_exp.schema.bounds import bound

WITHOUT_DEVICE = ("prepare", "convert")  # tasks that compute on no device and have no ranks
TEMPLATES = ("deepseek_coder", "chatml", "alpaca")  # prompt formats: data/templates.py
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # a block's matrices, in order
MOST_DOCUMENTS = 2048  # of a batch, in one call of attention on Ascend (aclnnFlashAttentionVarLenScore's page)
TEMPLATE_FILE = ".jinja"  # what a prompt format in a file ends with


@dataclass
class TaskConfig:
    """conf/task: which recipe runs."""

    name: str = field(metadata=bound(choices=("train", "prepare", "convert", "predict")))
    in_process: bool  # no device needed: the launcher calls it in the parent instead of a fresh process


@dataclass
class RopeScalingConfig:
    """Nullable as a whole; linear position interpolation."""

    type: str = field(metadata=bound(choices=("linear",)))
    factor: float = field(metadata=bound(ge=1.0))


@dataclass
class ModelConfig:
    """conf/model: shape (Hugging Face names; null: read from model.path) and where the weights lie."""

    path: Optional[str]  # HF or native directory, .gguf file, hf://OWNER/NAME[@REVISION], or pkg://PACKAGE/FILE
    init: str = field(metadata=bound(choices=("pretrained", "random")))  # random: drawn from `seed` when path is null
    template: Optional[str] = field(metadata=bound(choices=TEMPLATES, file=TEMPLATE_FILE))  # what it was tuned to
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
    path: Optional[str]  # directory, tokenizer.json or hf://OWNER/NAME[@REVISION]; null: the one beside model.path


@dataclass
class DataConfig:
    """conf/data: rows in, packed sequences out."""

    source: Optional[str]  # .json or .jsonl rows, a .txt or .md file, or a directory of text files
    template: Optional[str] = field(metadata=bound(choices=TEMPLATES, file=TEMPLATE_FILE))
    loss: str = field(metadata=bound(choices=("response", "all")))  # which positions the loss counts
    packing: bool  # several documents in one sequence; positions restart, attention never crosses
    eval_fraction: float = field(metadata=bound(ge=0.0, lt=1.0))  # of the rows, held out by a hash of the row's text
    max_rows: Optional[int] = field(metadata=bound(ge=1))
    overlong: str = field(metadata=bound(choices=("drop", "truncate")))  # a document above the limit; its EOS stays
    output: Optional[str]  # directory of the MindRecord files; null: a folder in runtime.cache_dir, named by content


@dataclass
class OptimConfig:
    """conf/optim: AdamW with decoupled decay, and its learning-rate schedule."""

    lr: float = field(metadata=bound(gt=0))
    betas: list[float] = field(metadata=bound(ge=0, lt=1))
    eps: float = field(metadata=bound(gt=0))
    weight_decay: float = field(metadata=bound(ge=0))
    decay_norms: bool  # whether decay also acts on the norms' weights
    clip_norm: Optional[float] = field(metadata=bound(gt=0))  # global gradient norm; null: no clipping
    schedule: str = field(metadata=bound(choices=("constant", "linear", "cosine", "wsd")))
    warmup_ratio: float = field(metadata=bound(ge=0, lt=1))  # of the optimizer steps, from lr 0
    warmup_steps: Optional[int] = field(metadata=bound(ge=0))  # wins over warmup_ratio
    decay_ratio: float = field(metadata=bound(gt=0, le=1))  # wsd: the part of the steps, at the end, in which it falls
    min_lr_ratio: float = field(metadata=bound(ge=0, le=1))  # the schedule's end, as a part of lr


@dataclass
class AdapterConfig:
    """conf/adapter: LoRA's factors; null where there are none."""

    type: str = field(metadata=bound(choices=("none", "lora")))
    path: Optional[str]  # of an adapter in PEFT's format; with lora it is trained on, else merged into the weights
    r: Optional[int] = field(metadata=bound(ge=1))  # the factors' rank
    alpha: Optional[float] = field(metadata=bound(gt=0))  # the factors' product counts alpha / r times
    dropout: Optional[float] = field(metadata=bound(ge=0, lt=1))  # part of their inputs that is dropped in training
    target_modules: Optional[list[str]] = field(metadata=bound(choices=MODULES))  # a block's matrices that have factors


@dataclass
class TrainConfig:
    """conf/train: how long, how much at a time, what is measured and kept on the way."""

    epochs: float = field(metadata=bound(gt=0))
    max_steps: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; wins over epochs
    global_batch_size: int = field(metadata=bound(ge=1))  # sequences of an optimizer step, over everything
    micro_batch_size: int = field(metadata=bound(ge=1))  # sequences a data-parallel rank takes at once
    recompute: str = field(metadata=bound(choices=("none", "selective", "full")))  # of a block, in its backward
    eval_every: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; null: only before and after
    max_eval_sequences: Optional[int] = field(metadata=bound(ge=1))
    save_every: Optional[int] = field(metadata=bound(ge=1))  # optimizer steps; null: only the weights, at the end
    keep_last: Optional[int] = field(metadata=bound(ge=1))  # newest checkpoints that stay, beside the best; null: all
    resume: Optional[str] = field(metadata=bound(choices=("auto",)))  # from output_dir's last checkpoint, if it has one
    prompts: list[str]  # answered before and after training
    prompt_tokens: int = field(metadata=bound(ge=1))  # new tokens an answer may have


@dataclass
class PredictConfig:
    """conf/predict: a prompt in, a streamed answer out. Greedy while temperature is 0."""

    prompt: Optional[str]
    template: str = field(metadata=bound(choices=("auto", "none", *TEMPLATES), file=TEMPLATE_FILE))
    max_new_tokens: int = field(metadata=bound(ge=1))
    temperature: float = field(metadata=bound(ge=0))
    top_k: Optional[int] = field(metadata=bound(ge=1))
    top_p: Optional[float] = field(metadata=bound(gt=0, le=1))


@dataclass
class WeightsConfig:
    """conf/weights: what task=convert reads and writes, and what any task lets pass when it loads weights."""

    source: Optional[str]
    target: Optional[str]
    format: str = field(metadata=bound(choices=("hf", "native", "mindformers")))
    tensor: int = field(metadata=bound(ge=1))  # native: tensor-parallel ranks that each tensor is cut over
    max_shard_size: str  # hf, and mindformers' safetensors: the largest file, such as 5GB
    ckpt_format: str = field(metadata=bound(choices=("safetensors", "ckpt")))  # mindformers: the kind of file
    merge_adapter: Optional[str]  # a LoRA adapter whose factors' products are added to the weights that are written
    allow: list[str]  # patterns of tensor names that may be missing or unexpected, in every task that loads a model


@dataclass
class ParallelConfig:
    """conf/parallel: what is shared out over how many ranks."""

    data: int = field(metadata=bound(ge=1))
    tensor: int = field(metadata=bound(ge=1))
    context: int = field(metadata=bound(ge=1))
    sequence: bool  # tensor ranks share out the rows of norms and residuals, too

    @property
    def ranks(self) -> int:
        """Processes of a job."""
        return self.data * self.tensor * self.context


@dataclass
class RuntimeConfig:
    """conf/runtime: the device and how it computes."""

    device: str = field(metadata=bound(choices=("cpu", "ascend")))
    precision: str = field(metadata=bound(choices=("fp32", "bf16", "fp16")))
    jit_level: str = field(metadata=bound(choices=("O0", "O1")))  # of compiled functions; O1 fuses operators
    deterministic: bool  # an NPU's runs repeat bit by bit, and are slower; a CPU's do anyway
    threads: Optional[int] = field(metadata=bound(ge=1))  # of a rank, on the CPU; null: the cores over the local ranks
    bind_core: bool  # each rank of several keeps to cores of its own; the launcher reads it
    cache_dir: str  # prepared data


@dataclass
class TrackingConfig:
    """conf/tracking: the MLflow run."""

    enabled: bool
    uri: str  # MLflow tracking URI; MLFLOW_TRACKING_URI wins
    experiment: str
    run_id: Optional[str] = field(metadata=bound(filled=True))
    parent_run_id: Optional[str] = field(metadata=bound(filled=True))


@dataclass
class Config:
    """Everything a task gets. Groups read the top-level keys by interpolation."""

    name: str  # the MLflow run's name
    seed: int = field(metadata=bound(ge=0))
    seq_length: int = field(metadata=bound(ge=2))  # tokens of a training sequence
    output_dir: str  # holds all that a job writes
    task: TaskConfig
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    optim: OptimConfig
    adapter: AdapterConfig
    train: TrainConfig
    predict: PredictConfig
    weights: WeightsConfig
    parallel: ParallelConfig
    runtime: RuntimeConfig
    tracking: TrackingConfig

    @property
    def accumulation_steps(self) -> int:
        """Micro steps whose gradients an optimizer step adds up."""
        return self.train.global_batch_size // (self.train.micro_batch_size * self.parallel.data)
