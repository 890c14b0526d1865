"""The linear layers of a block, plain or with LoRA (arXiv:2106.09685)."""

from dscoder_exp.model.kernels import Kernels
from dscoder_exp.schema.llama import MODULES, Lora

# Indices of a block's weights among its tensors, in the order of weights/names.py.
INPUT_NORM, Q, K, V, O, POST_ATTENTION_NORM, GATE, UP, DOWN = range(9)  # noqa: E741
NUM_WEIGHTS = 9
MATRICES = (Q, K, V, O, GATE, UP, DOWN)  # in the order of MODULES
INPUT_OF = (0, 0, 0, 1, 2, 2, 3)  # for each of MATRICES, which of the NUM_INPUTS arrays it multiplies
NUM_INPUTS = 4  # the first norm's output, attention's, the second norm's, SwiGLU's


def num_tensors(lora: Lora | None, *, dropout: bool = False) -> int:
    """Number of a block's tensors: its weights, A and B of each LoRA target, and with dropout a mask for each input."""
    factors = 0 if lora is None else 2 * len(lora.target_modules)
    return NUM_WEIGHTS + factors + (NUM_INPUTS if dropout else 0)


def make_projections(kernels: Kernels, lora: Lora | None, *, dropout: bool = False):
    """The functions project, project_dx and project_gradients: y = x W^T, with LoRA y = x W^T + scale x A^T B^T.

    Each takes the block's `tensors` and the index of W [out, in] among them. A is [r, in], B [out, r].

    Args:
        dropout: apply dropout to the x that A multiplies; `tensors` holds the masks.
    """
    return _plain_projections(kernels) if lora is None else _lora_projections(kernels, lora, dropout=dropout)


def _plain_projections(kernels: Kernels):
    linear, linear_dx, linear_dweight = kernels.linear, kernels.linear_dx, kernels.linear_dweight

    def project(x, tensors, index):
        """x [N, in] -> y [N, out]."""
        return linear(x, tensors[index])

    def project_dx(dy, tensors, index):
        """dy [N, out] -> dx [N, in]."""
        return linear_dx(dy, tensors[index])

    def project_gradients(dy, x, tensors, index):
        """dy [N, out], x [N, in] -> (dW [out, in],)."""
        return (linear_dweight(dy, x),)

    return project, project_dx, project_gradients


def _lora_projections(kernels: Kernels, lora: Lora, *, dropout: bool):
    linear, linear_dx, linear_dweight = kernels.linear, kernels.linear_dx, kernels.linear_dweight
    lora_linear, lora_linear_dx, add, drop = (
        kernels.lora_linear,
        kernels.lora_linear_dx,
        kernels.add,
        kernels.dropout,
    )
    scale, rate = lora.scale, lora.dropout
    a_index, mask_index = _lora_indices(lora)

    def dropped(x, tensors, index):
        """x [N, in] after dropout."""
        if dropout:
            return drop(x, tensors[mask_index[index]], rate)
        return x

    def inner_dx(dy, tensors, index):
        """dy [N, out] -> scale dy B [N, r], the gradient of x A^T."""
        return linear_dx(dy, tensors[a_index[index] + 1]) * scale

    def project(x, tensors, index):
        """x [N, in] -> y [N, out]."""
        if a_index[index] == 0:
            return linear(x, tensors[index])
        a, b = tensors[a_index[index]], tensors[a_index[index] + 1]
        return lora_linear(x, dropped(x, tensors, index), tensors[index], a, b, scale)

    def project_dx(dy, tensors, index):
        """dy [N, out] -> dx [N, in]."""
        if a_index[index] == 0:
            return linear_dx(dy, tensors[index])
        inner, a = inner_dx(dy, tensors, index), tensors[a_index[index]]
        if dropout:
            return add(linear_dx(dy, tensors[index]), dropped(linear_dx(inner, a), tensors, index))
        return lora_linear_dx(dy, inner, tensors[index], a)

    def project_gradients(dy, x, tensors, index):
        """dy [N, out], x [N, in] -> (dA [r, in], dB [out, r]); () for a matrix without LoRA. W is frozen."""
        if a_index[index] == 0:
            return ()
        a = tensors[a_index[index]]
        a_input = dropped(x, tensors, index)
        return linear_dweight(inner_dx(dy, tensors, index), a_input), linear_dweight(dy, linear(a_input, a) * scale)

    return project, project_dx, project_gradients


def _lora_indices(lora: Lora) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """By a weight's index: the index of its A, which B follows, and of its dropout mask; 0: the weight has no LoRA."""
    targets = lora.target_modules
    a_index, mask_index = [0] * NUM_WEIGHTS, [0] * NUM_WEIGHTS
    for module, index, source in zip(MODULES, MATRICES, INPUT_OF, strict=True):
        if module in targets:
            a_index[index] = NUM_WEIGHTS + 2 * targets.index(module)
            mask_index[index] = NUM_WEIGHTS + 2 * len(targets) + source
    return tuple(a_index), tuple(mask_index)
