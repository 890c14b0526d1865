"""Dynamic loss scaling for fp16, whose gradients would underflow otherwise (Micikevicius et al., arXiv:1710.03740)."""

INITIAL_SCALE = 65536.0  # as in the paper's recipe
GROWTH_INTERVAL = 1000  # steps without overflow after which the scale is doubled


class LossScale:
    """A factor on the loss: halved when a gradient overflows, doubled after GROWTH_INTERVAL steps without overflow.

    In other precisions than fp16 it stays 1.

    Attributes:
        value: the factor on the mean loss over a micro step's positions.
        good_steps: steps without overflow since `value` last changed.
    """

    def __init__(self, precision: str, state: tuple[float, int] | None = None) -> None:
        """
        Args:
            precision: "fp32", "bf16" or "fp16".
            state: (value, good_steps) of a resumed run.
        """
        self.dynamic = precision == "fp16"
        self.value, self.good_steps = state or (INITIAL_SCALE if self.dynamic else 1.0, 0)

    @property
    def state(self) -> tuple[float, int] | None:
        """(value, good_steps) for a checkpoint; None where the scale is constant."""
        return (self.value, self.good_steps) if self.dynamic else None

    def factor(self, positions: int) -> float:
        """The factor on the summed loss of `positions` positions: `value` / `positions`, or 1 where it is constant."""
        return self.value / positions if self.dynamic else 1.0

    def record_finite(self) -> None:
        """Count a step whose gradient was finite."""
        self.good_steps += 1
        if self.dynamic and self.good_steps == GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * 2, 0

    def record_overflow(self) -> bool:
        """Halve the scale after a step whose gradient was not finite; False: it is constant or 1, nothing changed."""
        if not self.dynamic or self.value <= 1:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True
