"""Comparing a written file with the model that it was made of."""

from collections.abc import Callable

import keras
import numpy as np

from kprune import keras_internals
from kprune.exporting import tolerance
from kprune.structure.cloning import LOOKUPS

# LiteRT's softmax has steps of 1/256 in int8, however small its outputs are.
# They excuse this much of the largest output at most, so that no file of zeros
# passes, unless all outputs are smaller, as of a softmax over 1,000 classes
# that was never trained: `Check.is_blind` says so.
_INT8_STEPS = 2 / 256
_INT8_STEPS_SHARE = 0.2

_BATCH_SIZE = 2
# Tried in turn where a model leaves a size open: deep nets need more than the
# first, tables of positions have fewer rows.
_OPEN_SIZES = (64, 128, 256, 16)


class Check:
    """What a model computes, to hold files against.

    Args:
        model: A Sequential or Functional model.
        batches: List of batches, each a list of arrays, one per input.
        quantize: How the weights of the files are rounded, `None` if not at
            all.
        exact: The model as the files compute it, in float32, if it computes
            in less precision itself. They are held against both, since what
            rounding explains in half precision may hide a wrong weight.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: list,
        quantize: str | None = None,
        exact: keras.Model | None = None,
    ):
        self.model = model
        self.batches = batches
        self.quantize = quantize
        self.exact = exact
        self.expected = self._outputs_of(model)
        # Whether outputs were too small to tell a file from one of zeros.
        self.is_blind = False

    def _outputs_of(self, model) -> list:
        try:
            return [outputs_of(model, batch) for batch in self.batches]
        # Layers and backends raise whatever they like.
        except Exception as error:
            raise ValueError(
                f"Model '{model.name}' cannot be run to check a file against "
                "it. Check it for layers that refuse values, such as a lookup "
                f"without `num_oov_indices`. {type(error).__name__}: {error}"
            ) from error

    def difference(self, run: Callable[[list], list]) -> float:
        """Runs a file on the same input.

        Args:
            run: Callable from a list of arrays, one per input, to a list of
                arrays, one per output.

        Returns:
            Float. The largest absolute difference over all outputs.

        Raises:
            RuntimeError: If an output has another shape, differs by more than
                rounding explains, or is nan or infinite.
        """
        received = [run(batch) for batch in self.batches]
        for expected, outputs in zip(self.expected, received):
            shapes = [np.shape(x) for x in outputs]
            wanted = [np.shape(x) for x in expected]
            if shapes != wanted:
                raise RuntimeError(
                    "The written file does not compute what model "
                    f"'{self.model.name}' does: its outputs have the shapes "
                    f"{shapes}, those of the model {wanted}. Give "
                    "`input_signature` fixed sizes, or take another format."
                )
        if self.exact is not None:
            self._compare_all(
                self.exact, self._outputs_of(self.exact), received
            )
        return self._compare_all(self.model, self.expected, received)

    def _compare_all(self, model, expected, received) -> float:
        share = tolerance.share(model, self.quantize)
        columns = zip(zip(*expected), zip(*received))
        return max(
            self._compare(tensor, share, *column)
            for tensor, column in zip(model.outputs, columns)
        )

    def _compare(self, tensor, share, expected, received) -> float:
        if expected[0].dtype == object:
            # Texts, as numbers: 0 where one is right, 1 where it is another.
            received = [x != y for x, y in zip(received, expected)]
            expected = [np.zeros(np.shape(x)) for x in received]
        wanted = np.concatenate([np.ravel(x) for x in expected]).astype(float)
        got = np.concatenate([np.ravel(x) for x in received]).astype(float)
        scale = float(np.max(np.abs(wanted), initial=0.0))
        if not np.isfinite(scale):
            raise RuntimeError(
                f"Output '{tensor.name}' of model '{self.model.name}' is nan "
                "or infinite, so that no file can be compared with it. Check "
                "the model for nan weights, for a division by zero, and for "
                "sums too large for its dtype."
            )
        difference = float(np.max(np.abs(wanted - got), initial=0.0))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if self.quantize and "float" not in dtype:
            # A class, say: rounded weights may decide for another.
            return difference
        allowed = share * max(scale, 1e-6)
        if self.quantize == "int8":
            is_blind = scale < _INT8_STEPS
            allowed += (
                _INT8_STEPS
                if is_blind
                else min(_INT8_STEPS, _INT8_STEPS_SHARE * scale)
            )
            self.is_blind |= is_blind
        if not difference <= allowed:
            raise RuntimeError(
                f"The written file does not compute what model "
                f"'{self.model.name}' does: output '{tensor.name}' differs by "
                f"{difference:.3g}, where {allowed:.3g} is allowed (largest "
                f"output {scale:.3g}). {self._advice()}"
            )
        return difference

    def _advice(self) -> str:
        if self.quantize == "int8":
            return (
                "Check that `representative_data` looks like what the model "
                "will see, export a softmax whose outputs are small without "
                "the softmax, which has steps of 1/256, or take "
                "`quantize='float16'`."
            )
        return (
            "Check the model for operations that are random in inference, and "
            "for outputs that a rounding of the input changes as much, as in "
            "deep nets that were never trained."
        )


def outputs_of(model: keras.Model, inputs: list) -> list:
    """Calls a model in inference on a flat list of arrays.

    Nothing of the model changes, such as the state of a recurrent layer.

    Args:
        model: A Sequential or Functional model.
        inputs: List of arrays, one per input.

    Returns:
        List of arrays, one per output.
    """
    struct = keras.tree.pack_sequence_as(
        keras_internals.inputs_struct(model), inputs
    )
    with keras.StatelessScope():
        outputs = model(struct, training=False)
    flat = keras.tree.flatten(outputs)
    return [keras.ops.convert_to_numpy(output) for output in flat]


def random_batch(model: keras.Model, shapes: list) -> list:
    """Random arrays that a model can be called with.

    Args:
        model: A Sequential or Functional model.
        shapes: List of tuples: the shape of each input.

    Returns:
        List of arrays, one per input: normal floats, or 0 and 1 for integers
        and booleans, which are valid indices of any table of two rows; what a
        lookup knows where one reads the input, else `"a"` and `"b"` for
        strings.

    Raises:
        ValueError: If sizes are open, and the model takes none that is tried,
            or it takes strings on a backend that has none.
    """
    if all(None not in shape[1:] for shape in shapes):
        return _drawn(model, shapes, None)
    reason = "its outputs are empty"
    not_finite = None
    for size in _OPEN_SIZES:
        batch = _drawn(model, shapes, size)
        try:
            outputs = outputs_of(model, batch)
        # Layers and backends raise whatever they like.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if all(output.size for output in outputs):
            if all(map(_is_finite, outputs)):
                return batch
            not_finite = not_finite or batch
    if not_finite:
        return not_finite
    raise ValueError(
        f"Model '{model.name}' leaves sizes of its inputs open, {shapes}, and "
        f"could not be checked with any of {_OPEN_SIZES} in their place. Give "
        "`input_signature` sizes that it takes. A `.keras` file has none: "
        "make the model with fixed sizes, or write it unchecked with "
        "`kprune.strip(model).save(path)`. The last size failed with "
        f"{reason}"
    )


def _drawn(model, shapes, open_size) -> list:
    generator = np.random.default_rng(0)
    inputs = []
    for tensor, shape in zip(model.inputs, shapes):
        sizes = [open_size if size is None else size for size in shape[1:]]
        shape = (shape[0] or _BATCH_SIZE, *sizes)
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string" and keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"Model '{model.name}' takes strings, which Keras computes "
                "with on TensorFlow only: set KERAS_BACKEND=tensorflow. "
                f"Received: {keras.backend.backend()}"
            )
        known = _vocabulary(model, tensor)
        if known:
            values = generator.choice(known, shape)
        elif "float" in dtype:
            values = generator.standard_normal(shape)
        elif dtype == "string":
            values = generator.choice(["a", "b"], shape)
        else:
            values = generator.integers(2, size=shape)
        inputs.append(values.astype(object if dtype == "string" else dtype))
    return inputs


def _vocabulary(model, tensor) -> list:
    """What the lookup that reads an input knows, empty if none reads it."""
    for call in keras_internals.calls(model):
        layer = call.operation
        reads = any(read is tensor for read in call.inputs)
        if reads and isinstance(layer, LOOKUPS):
            # An inverted one reads indices.
            if not getattr(layer, "invert", False):
                return layer.get_vocabulary(include_special_tokens=False)
    return []


def _is_finite(output) -> bool:
    return bool(np.all(np.isfinite(output.astype(float))))
