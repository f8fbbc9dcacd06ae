"""A model of half precision, computing in float32 as LiteRT's kernels do."""

import keras

from kprune.keras_internals import sublayers
from kprune.structure.cloning import clone
from kprune.structure.rebuilding import Rebuilder

HALF = ("bfloat16", "float16")


def in_float32(model: keras.Model) -> keras.Model:
    """The model with float32 in place of float16 and bfloat16.

    Args:
        model: A plain Sequential or Functional model.

    Returns:
        A new model with the same weights, or `model` where nothing in it
        computes in half precision. Layers that Keras quantized stay.
    """
    if not any(map(_is_half, sublayers(model))):
        return model
    # Layers of a user's own make others, which take the global policy.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        rebuilder = Rebuilder(_in_float32, _float32_cast)
        rebuilt = rebuilder.rebuild(model)
        rebuilder.copy_weights()
    finally:
        keras.config.set_dtype_policy(policy)
    return rebuilt


def _in_float32(layer):
    new = clone(layer)
    if new is not layer:
        for part in [new, *sublayers(new)]:
            if _is_half(part):
                part.dtype_policy = "float32"
    return new


def _float32_cast(operation) -> dict:
    """What changes in the config of a cast to half precision."""
    dtype = getattr(operation, "dtype", None)
    return {"dtype": "float32"} if dtype in HALF else {}


def _is_half(layer) -> bool:
    policy = layer.dtype_policy
    return policy.quantization_mode is None and policy.compute_dtype in HALF
