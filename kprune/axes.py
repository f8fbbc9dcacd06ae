"""Where the inputs and the outputs of a kernel lie."""

import keras

from kprune import weights

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


def of_kernel(owner, variable) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The axes of inputs and of outputs, and the parts, of a kernel.

    Args:
        owner: The Keras layer that made the variable.
        variable: `keras.Variable` of rank 2 or more.
    """
    rank = len(variable.shape)
    last, before = rank - 1, rank - 2
    if isinstance(owner, weights.TRANSPOSED):
        return (last,), (before,), 1
    if isinstance(owner, _DEPTHWISE) or variable.name == "depthwise_kernel":
        return (), (before, last), 1
    if isinstance(owner, keras.layers.EinsumDense):
        return *_of_einsum(owner.equation), 1
    parts = 1
    for other in owner.weights:
        # Units by the gates of all units.
        if other.name == "recurrent_kernel":
            parts = other.shape[-1] // other.shape[-2]
    return (before,), (last,), parts


def _of_einsum(equation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of the kernel that an equation sums over, and that it makes."""
    arguments, output = equation.replace(" ", "").split("->")
    read, kernel = arguments.replace("...", "").split(",")
    ins = [a for a, label in enumerate(kernel) if label not in output]
    outs = [a for a, label in enumerate(kernel) if label not in read]
    # A kernel without one of the two is used for each of the others.
    return tuple(ins), tuple(outs) or tuple(
        a for a in range(len(kernel)) if a not in ins
    )


def bias_of(owner, variable, out_axes):
    """The bias that is added to the outputs of a kernel, or `None`."""
    outputs = tuple(variable.shape[axis] for axis in out_axes)
    makes_outputs = variable.name != "depthwise_kernel"
    for bias in weights.biases(owner).values() if makes_outputs else ():
        # A GRU has two rows, for its input and for its state.
        if tuple(bias.shape[-len(outputs) :]) == outputs:
            return bias
    return None
