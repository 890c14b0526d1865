"""What prepared data is made from: the options, and hashes of what is too long to tell."""

import json
from dataclasses import asdict, dataclass

from dscoder_exp.data.source import digest
from dscoder_exp.weights.tokenizer import Fingerprint

FORMAT = 4  # raise it when what is written changes: older caches are then left alone


@dataclass(frozen=True)
class CacheKey:
    """All that prepared data depends on, so that its hash names the data. Long things stand in by hashes.

    Attributes:
        source: of its content.
        form: how the content is read (Source.form).
        around: the ids that the tokenizer itself puts around a text.
        template: its name, and a hash of what it writes.
    """

    format: int
    source: str
    form: str
    tokenizer: Fingerprint
    around: list[int]
    template: str
    loss: str
    packing: bool
    eval_fraction: float
    max_rows: int | None
    overlong: str
    seq_length: int
    max_document: int
    bos_token_id: int | None
    eos_token_id: int
    pad_token_id: int

    @property
    def fingerprint(self) -> str:
        return digest(json.dumps(asdict(self), sort_keys=True).encode())
