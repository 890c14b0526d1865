"""Dynamic loss scaling for fp16, whose gradients would underflow otherwise (Micikevicius et al., arXiv:1710.03740)."""

FIRST = 65536.0  # the original recipe's
WINDOW = 1000  # steps without overflow until it is doubled


class LossScale:
    """Halved when a gradient overflows, doubled after a while without; 1 for good where the precision needs none.

    Attributes:
        value: what the gradient of the mean loss over a micro step's positions is multiplied with.
        good_steps: since it was changed.
    """

    def __init__(self, precision: str, state: tuple[float, int] | None = None) -> None:
        """
        Args:
            state: value and good_steps that a run goes on with.
        """
        self.dynamic = precision == "fp16"
        self.value, self.good_steps = state or (FIRST if self.dynamic else 1.0, 0)

    @property
    def state(self) -> tuple[float, int] | None:
        """What a run that goes on needs; None where there is nothing."""
        return (self.value, self.good_steps) if self.dynamic else None

    def factor(self, positions: int) -> float:
        """What the summed loss's gradient is multiplied with: a sum over more positions is that much larger."""
        return self.value / positions if self.dynamic else 1.0

    def succeed(self) -> None:
        """A step's gradient was finite."""
        self.good_steps += 1
        if self.dynamic and self.good_steps == WINDOW:
            self.value, self.good_steps = self.value * 2, 0

    def overflow(self) -> bool:
        """A step's gradient wasn't finite: whether a smaller scale may help."""
        if not self.dynamic or self.value <= 1:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True
