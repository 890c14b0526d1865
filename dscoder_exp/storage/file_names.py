"""Names of the files in a model's directory, on disk and on the hub."""

import re

CONFIG_FILE, CHECKPOINT_FILE = "config.json", "checkpoint.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
TORCH_FILE, TORCH_INDEX_FILE = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = ((WEIGHTS_FILE, INDEX_FILE), (TORCH_FILE, TORCH_INDEX_FILE))  # the first that is there is read
TOKENIZER_FILE, CHAT_TEMPLATE_FILE = "tokenizer.json", "chat_template.jinja"
TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE = "tokenizer_config.json", "special_tokens_map.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    "added_tokens.json",
    CHAT_TEMPLATE_FILE,
)
GENERATION_FILE = "generation_config.json"
BESIDE_WEIGHTS = (*TOKENIZER_FILES, GENERATION_FILE)
ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
ADAPTER_FILE = "adapter.json"

GGUF_PART = re.compile(
    r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL
)  # as llama.cpp names them


def gguf_parts(name: str) -> list[str]:
    """The names of all parts of a GGUF file that is split like `name`, in order; `name` alone if it isn't."""
    if (found := GGUF_PART.fullmatch(name)) is None or not 0 < int(found["number"]) <= int(found["count"]):
        return [name]
    return [f"{found['stem']}-{number:05d}-of-{found['count']}.gguf" for number in range(1, int(found["count"]) + 1)]
