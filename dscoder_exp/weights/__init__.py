"""Reading weights and tokenizers of several kinds, and writing the native checkpoint. Never imports mindspore."""
