"""Words of the command lines that are run dry: the recipe as an NPU gets it, on the tiny model."""

TINY = ("model=tiny", "data=sample", "seq_length=256", "tracking=off")
RECIPE = ("+experiment=finetune_8k", *TINY, "parallel=single", "train.global_batch_size=1", "train.max_steps=2")
