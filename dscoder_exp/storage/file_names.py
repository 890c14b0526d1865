"""Names of the files in a model's directory, on disk and on the hub."""

CONFIG_FILE, CHECKPOINT_FILE = "config.json", "checkpoint.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILE, CHAT_TEMPLATE_FILE = "tokenizer.json", "chat_template.jinja"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    CHAT_TEMPLATE_FILE,
)
# Files copied unchanged along with the weights.
BESIDE_WEIGHTS = (*TOKENIZER_FILES, "generation_config.json")
ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
ADAPTER_FILE = "adapter.json"
