"""Weights of MindSpore Transformers: a .ckpt file, a safetensors file, or a directory of either."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from dscoder_exp.schema.errors import refuse
from dscoder_exp.schema.llama import LlamaConfig
from dscoder_exp.storage.file_names import CONFIG_FILE
from dscoder_exp.storage.json_files import read_json
from dscoder_exp.weights.chat_template import template_in
from dscoder_exp.weights.directory import SlicedTensor, StoredTensors, checked_weight_map, locate_tensors, unsliced
from dscoder_exp.weights.formats.ckpt_file import read_ckpt
from dscoder_exp.weights.formats.hf_config import end_tokens, from_hf
from dscoder_exp.weights.formats.safetensors_file import read_header
from dscoder_exp.weights.formats.tensor_io import Entry
from dscoder_exp.weights.generation_config import generation_in
from dscoder_exp.weights.names import parameter_shapes

MAP_FILE = "param_name_map.json"  # tensor -> file
NOT_WEIGHTS = "hyper_param.safetensors"  # hyperparameters of a training, by MindSpore Transformers
# mindformers/models/llama/llama.py, convert_name; matrices are [out, in], and rotary embedding pairs halves, as here
NAMES = {
    "embed_tokens.weight": "tok_embeddings.embedding_weight",
    "input_layernorm.weight": "attention_norm.weight",
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
    "norm.weight": "norm_out.weight",
}
GIVE_SHAPE = "put the model's config.json beside it, or give its shape: model=7b"
GIVE_ONE = "give the .ckpt or .safetensors file itself"


def mindformers_name(name: str) -> str:
    """`model.layers.3.attention.wq.weight` for `model.layers.3.self_attn.q_proj.weight`; lm_head is unchanged."""
    parts = name.split(".")
    begin = 3 if parts[1] == "layers" else 1
    return ".".join([*parts[:begin], NAMES[".".join(parts[begin:])]]) if parts[0] == "model" else name


class MindFormersWeights(StoredTensors):
    """A WeightSource by Hugging Face's names; other tensors, such as optimizer moments, keep their own."""

    kind: Literal["mindformers"] = "mindformers"

    def __init__(self, path: Path, key: str, shape: LlamaConfig | None) -> None:
        """
        Args:
            shape: the model's, if there is no config.json beside the weights.

        Raises:
            Refused: there are no weights, or several files without an index; or the model's shape is unknown.
        """
        self._file = path if path.is_file() else _only_file(path, key)
        beside = path if path.is_dir() else path.parent
        ends: tuple[int, ...] = ()
        if (file := beside / CONFIG_FILE).is_file():
            values = read_json(file, key)
            shape, ends = from_hf(values, str(file)), end_tokens(values, str(file))
        if shape is None:
            raise refuse(key, f"{path}: the files don't hold the model's shape", GIVE_SHAPE)
        super().__init__(path, key, shape, template_in(beside, key), generation_in(beside, ends, key))

    @cached_property
    def _tensors(self) -> dict[str, SlicedTensor]:
        ours = {mindformers_name(name): name for name in parameter_shapes(self.config)}
        return {ours.get(name, name): unsliced(*location) for name, location in self._locations().items()}

    def _locations(self) -> dict[str, tuple[Path, Entry]]:
        if self._file is None:
            names = checked_weight_map(self.path, MAP_FILE, read_json(self.path / MAP_FILE, self._key), self._key)
            return locate_tensors(self.path, names, MAP_FILE, self._key)
        read = read_ckpt if self._file.suffix == ".ckpt" else read_header
        return {name: (self._file, entry) for name, entry in read(self._file, self._key).items()}


def holds_mindformers(directory: Path) -> bool:
    """Whether a directory looks like weights of MindSpore Transformers."""
    if (directory / MAP_FILE).is_file() or any(directory.glob("*.ckpt")) or any(directory.glob("rank_*/*.ckpt")):
        return True
    return not (directory / CONFIG_FILE).is_file() and any(directory.glob("*.safetensors"))


def _only_file(directory: Path, key: str) -> Path | None:
    """The only file of weights; None if the directory has an index."""
    if (directory / MAP_FILE).is_file():
        return None
    found = [*directory.glob("*.ckpt"), *directory.glob("*.safetensors")]
    files = sorted(file for file in found if file.name != NOT_WEIGHTS)
    if len(files) == 1:
        return files[0]
    if not files:
        what = f"{directory} holds the slices of a distributed run (rank_*)"
        raise refuse(key, what, "merge them with MindSpore Transformers' transform_checkpoint, then give that file")
    raise refuse(key, f"{directory} holds {len(files)} files and no {MAP_FILE}: {files[0].name}, …", GIVE_ONE)
