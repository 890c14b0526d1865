"""A block's matrix products, plain or with LoRA's factors beside them (schema/lora.py)."""

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.schema.llama import MODULES, Lora

WEIGHTS = 9  # of a block, in the order of weights/names.py
Q, K, V, O, GATE, UP, DOWN = PLACES = (1, 2, 3, 4, 6, 7, 8)  # noqa: E741  # of the matrices among them
READ = (0, 0, 0, 1, 2, 2, 3)  # which of the four arrays that a block's matrices read is each one's
INPUTS = 4


def tensors_of(lora: Lora | None, *, drops: bool = False) -> int:
    """Tensors that a block takes: its weights, each target's A and B, and where inputs are dropped a mask of each."""
    factors = 0 if lora is None else 2 * len(lora.target_modules)
    return WEIGHTS + factors + (INPUTS if drops else 0)


def make_projections(kernels: Kernels, lora: Lora | None, *, drops: bool = False):
    """apply, apply_dx and apply_gradients of a block's matrices: y = x W^T, with factors plus scale x A^T B^T.

    All take the block's `tensors` and the index `place` of W [out, in] among them; A is [r, in], B [out, r].

    Args:
        drops: whether A reads what dropout leaves of x; the masks come with the tensors.
    """
    linear, linear_dx, linear_dweight = kernels.linear, kernels.linear_dx, kernels.linear_dweight
    adapted, adapted_dx = kernels.adapted, kernels.adapted_dx
    if lora is None:

        def plain(x, tensors, place):
            """x [N, in] -> [N, out]."""
            return linear(x, tensors[place])

        def plain_dx(dy, tensors, place):
            """dy [N, out] -> dx [N, in]."""
            return linear_dx(dy, tensors[place])

        def plain_gradients(dy, x, tensors, place):
            """dy [N, out], x [N, in] -> (dW [out, in],)."""
            return (linear_dweight(dy, x),)

        return plain, plain_dx, plain_gradients
    scale, targets, rate, drop = lora.scale, lora.target_modules, lora.dropout, kernels.drop
    factors, masks = [0] * WEIGHTS, [0] * WEIGHTS
    for module, place, read in zip(MODULES, PLACES, READ, strict=True):
        if module in targets:
            factors[place] = WEIGHTS + 2 * targets.index(module)
            masks[place] = WEIGHTS + 2 * len(targets) + read
    first, mask = tuple(factors), tuple(masks)  # 0: the matrix has no factors

    def dropped(x, tensors, place):
        """What A sees of x [N, in]."""
        if drops:
            return drop(x, tensors[mask[place]], rate)
        return x

    def inner_dx(dy, tensors, place):
        """dy [N, out] -> the gradient of x A^T, scale dy B [N, r]."""
        return linear_dx(dy, tensors[first[place] + 1]) * scale

    def apply(x, tensors, place):
        """x [N, in] -> [N, out]."""
        if first[place] == 0:
            return linear(x, tensors[place])
        a, b = tensors[first[place]], tensors[first[place] + 1]
        return adapted(x, dropped(x, tensors, place), tensors[place], a, b, scale)

    def apply_dx(dy, tensors, place):
        """dy [N, out] -> dx [N, in]."""
        if first[place] == 0:
            return linear_dx(dy, tensors[place])
        inner, a = inner_dx(dy, tensors, place), tensors[first[place]]
        if drops:
            return linear_dx(dy, tensors[place]) + dropped(linear_dx(inner, a), tensors, place)
        return adapted_dx(dy, inner, tensors[place], a)

    def apply_gradients(dy, x, tensors, place):
        """dy [N, out], x [N, in] -> (dA [r, in], dB [out, r]), or () without factors; W itself is frozen."""
        if first[place] == 0:
            return ()
        a = tensors[first[place]]
        seen = dropped(x, tensors, place)
        return linear_dweight(inner_dx(dy, tensors, place), seen), linear_dweight(dy, linear(seen, a) * scale)

    return apply, apply_dx, apply_gradients
