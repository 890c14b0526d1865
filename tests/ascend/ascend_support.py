"""Overrides of the dry runs' command lines: the finetune_8k recipe on the tiny model, for one card."""

TINY = ("model=tiny", "data=sample", "seq_length=256", "tracking=off")
RECIPE = ("+experiment=finetune_8k", *TINY, "parallel=single", "train.global_batch_size=1", "train.max_steps=2")
