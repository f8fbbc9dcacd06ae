"""Which weights of a layer can be pruned, and what counts of them."""

import keras
import numpy as np
from keras import ops

from kprune.keras_internals import made_to_train, sublayers

# Trainable tensors of rank 2 and more that are no kernels.
_NEVER_KERNELS = {"alpha", "beta", "bias", "gamma", "recurrent_bias", "scale"}
_FOREIGN = (keras.layers.TFSMLayer, keras.layers.TorchModuleWrapper)
# Their kernels have outputs before inputs.
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def kernels(layer: keras.layers.Layer) -> dict:
    """The weights of a layer that can be pruned one by one.

    Kernels of every kind (kernel, recurrent, depthwise, pointwise,
    embeddings, and the trainable matrices of a custom layer), but not biases,
    norms' scales or PReLU slopes, and nothing quantized. A layer with LoRA
    weights has none: zeros in its kernel are not zeros of the sum. Nor has a
    SpectralNormalization, which writes its kernel anew at each step, nor a
    torch module or SavedModel within Keras, which computes with its own.

    A layer with a method `get_prunable_weights` says itself which they are:
    those that this returns, and no others of it or of the layers in it.

    Args:
        layer: A built Keras layer.

    Returns:
        Dict from the name of a weight to its `keras.Variable`. The name is the
        variable's own where that is unique in the layer, else its path in the
        layer, such as `"query/kernel"`.

    Raises:
        ValueError: If `get_prunable_weights` returns something else than
            variables of the layer that can be pruned.

    Example:

    >>> layer = keras.layers.LSTM(4)
    >>> layer.build((None, 3, 2))
    >>> list(kprune.weights.kernels(layer))
    ['kernel', 'recurrent_kernel']
    """
    if _has_lora(layer) or _is_spectral(layer):
        return {}
    found = {id(variable) for variable in all_kernels(layer).values()}
    said, settled = _declared(layer)
    found = found - settled | said
    return _named(layer, lambda variable: id(variable) in found)


def all_kernels(layer: keras.layers.Layer) -> dict:
    """The kernels of a layer, whatever it says of them.

    Args:
        layer: A built Keras layer.

    Returns:
        Dict as `kernels` returns it.
    """
    parts = [layer, *sublayers(layer)]
    # What was made to train: a frozen layer's kernels are kernels as well.
    trained = {id(v) for part in parts for v in made_to_train(part)}
    trained -= {id(variable) for variable in _foreign(layer)}
    return _named(layer, lambda v: id(v) in trained and _is_kernel(v))


def _declared(layer) -> tuple[set[int], set[int]]:
    """What layers say is pruned, and all of which they decide, by ids."""
    said: set[int] = set()
    settled: set[int] = set()
    # A layer comes before those in it, and decides for them.
    for part in [layer, *sublayers(layer)]:
        own = {id(variable) for variable in part.weights}
        if hasattr(part, "get_prunable_weights") and not own <= settled:
            found = part.get_prunable_weights()
            if not isinstance(found, (list, tuple)) or not all(
                id(variable) in own and _has_rows(variable)
                for variable in found
            ):
                raise ValueError(
                    f"`get_prunable_weights` of layer '{part.name}' must "
                    "return a list of the layer's variables that have two or "
                    "more axes and are floats, such as `[self.kernel]`. "
                    f"Received: {found!r}"
                )
            said.update(map(id, found))
            settled |= own
    return said, settled


def no_kernels_reason(layer: keras.layers.Layer) -> str:
    """Why a layer has no weights that can be pruned one by one.

    Args:
        layer: A built Keras layer of which `kernels` finds none.

    Returns:
        String.
    """
    if _has_lora(layer):
        return "LoRA weights; merge them first"
    if _is_spectral(layer):
        return "spectral normalization writes its kernel anew"
    if getattr(layer, "quantization_mode", None) is not None:
        return "quantized"
    if _foreign(layer):
        return "a torch module or SavedModel computes with its own variables"
    if _declared(layer)[1]:
        return "its `get_prunable_weights` names none"
    return "no kernels" if layer.weights else "no weights"


def biases(layer: keras.layers.Layer) -> dict:
    """The biases of a layer, which go when their filter goes.

    Args:
        layer: A built Keras layer.

    Returns:
        Dict from the name of a weight to its `keras.Variable`, as `kernels`
        names them.

    Example:

    >>> layer = keras.layers.Dense(4)
    >>> layer.build((None, 3))
    >>> list(kprune.weights.biases(layer))
    ['bias']
    """
    return _named(layer, _is_bias)


def are_complete(layer: keras.layers.Layer) -> bool:
    """Whether a layer, and every layer in it, has its weights.

    Args:
        layer: A Keras layer.

    Returns:
        Boolean.
    """
    return all(part.built for part in [layer, *sublayers(layer)])


def _has_lora(layer) -> bool:
    return any(v.name.startswith("lora_") for v in layer.weights)


def _is_spectral(layer) -> bool:
    return isinstance(layer, keras.layers.SpectralNormalization)


def _foreign(layer) -> list:
    """Variables that Keras lists, but that what computes does not ask for."""
    return [
        variable
        for part in [layer, *sublayers(layer)]
        if isinstance(part, _FOREIGN)
        for variable in part.weights
    ]


def _is_float(variable) -> bool:
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return "float" in dtype and "float8" not in dtype


def _has_rows(variable) -> bool:
    return len(variable.shape) > 1 and _is_float(variable)


def _is_kernel(variable) -> bool:
    return _has_rows(variable) and variable.name not in _NEVER_KERNELS


def _is_bias(variable) -> bool:
    return variable.name == "bias" and _is_float(variable)


def _named(layer, wanted) -> dict:
    chosen = [variable for variable in layer.weights if wanted(variable)]
    names = [variable.name for variable in chosen]
    if len(set(names)) < len(names):
        names = [_path_in(layer, variable) for variable in chosen]
    if len(set(names)) < len(names):
        names = [f"{index}/{name}" for index, name in enumerate(names)]
    return dict(zip(names, chosen))


def _path_in(layer, variable) -> str:
    """A variable's path below a layer's, whatever the layer is called now."""
    if layer.path and variable.path.startswith(f"{layer.path}/"):
        return variable.path[len(layer.path) + 1 :]
    return f"/{variable.path}".rpartition(f"/{layer.name}/")[2]


def to_numpy(variable) -> np.ndarray:
    """A variable's value, copied only where the backend has to.

    Args:
        variable: `keras.Variable`.

    Returns:
        Array of the shape and dtype of the variable, to be read only.
    """
    value = ops.convert_to_tensor(variable)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # An eager tensor shares its memory, which TensorFlow does not write
        # to while it is held; `ops.convert_to_numpy` copies twice.
        return np.asarray(tf.convert_to_tensor(value))
    if keras.backend.backend() == "jax" and not (
        value.is_fully_addressable or value.is_fully_replicated
    ):
        from jax.experimental import multihost_utils

        # Other processes hold parts of it; all of them are at this line.
        return multihost_utils.process_allgather(value, tiled=True)
    return ops.convert_to_numpy(value)


def times_mask(variable, mask):
    """The product of a variable and its mask.

    Args:
        variable: `keras.Variable` of floats.
        mask: Boolean `keras.Variable` of the same shape.

    Returns:
        Tensor of the shape and dtype of the variable.
    """
    if keras.backend.backend() == "torch":
        import torch

        # Without Keras's operations, whose checks show in eager steps. torch
        # turns a byte into a float several times faster than a boolean.
        value = variable.value
        return value * mask.value.view(torch.uint8).to(value.dtype)
    value = ops.convert_to_tensor(variable)
    return value * ops.cast(mask, value.dtype)


def masked_value(variable, mask) -> np.ndarray:
    """What counts of a weight: its value where the mask keeps, else 0.

    Args:
        variable: `keras.Variable`.
        mask: Boolean `keras.Variable` of the same shape, or `None`.

    Returns:
        Array of the shape and dtype of the variable.
    """
    value = to_numpy(variable)
    if mask is None:
        return value
    mask = to_numpy(mask)
    return value if mask.all() else np.where(mask, value, value.dtype.type(0))


def count_zeros(values) -> tuple[int, int]:
    """Counts numbers and the zeros among them.

    Args:
        values: Iterable of arrays.

    Returns:
        Tuple of two integers.
    """
    size = zeros = 0
    for value in values:
        size += value.size
        zeros += value.size - int(np.count_nonzero(value))
    return size, zeros
