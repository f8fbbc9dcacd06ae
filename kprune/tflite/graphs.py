"""What is in a `.tflite` file: tensors, operators and graphs of them."""

import collections
import dataclasses
import functools
import math
from typing import Any, cast

import numpy as np

# Numbers that a model multiplies with or adds; the other constants of a file
# are shapes and axes.
_FLOATS = {"FLOAT16": np.float16, "FLOAT32": np.float32, "FLOAT64": np.float64}
_QUANTIZED = {
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}
_PACKED = ("INT4", "BFLOAT16")
# Operators that only unpack what the file holds.
UNPACKING = ("DENSIFY", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a file.

    Args:
        name: String.
        shape: Tuple of integers; 1 where a size is open.
        open_axes: Tuple of the axes whose size is open.
        type: String, as the schema names it, such as `"FLOAT32"`.
        data: Array of bytes; `None` if it is computed.
        buffer: Integer. Where the file has the data; tensors can share it.
        zero_points: Array: which integer stands for 0, one or one per index
            of `quantized_axis`; empty if it is not quantized.
        quantized_axis: Integer.
        is_sparse: Boolean. Whether only a part of its numbers is stored.
    """

    name: str
    shape: tuple
    open_axes: tuple
    type: str
    data: np.ndarray | None
    buffer: int
    zero_points: np.ndarray
    quantized_axis: int
    is_sparse: bool

    @property
    def size(self) -> int:
        """Integer. How many numbers it has, those not stored included."""
        return math.prod(self.shape)

    @property
    def is_parameter(self) -> bool:
        """Whether it is a constant of floats or quantized numbers."""
        if self.data is None:
            return False
        is_quantized = self.type in _QUANTIZED and self.zero_points.size > 0
        return self.type in (*_FLOATS, *_PACKED) or is_quantized

    @property
    def is_of_numbers(self) -> bool:
        """Whether it is a constant that `stored` can read."""
        is_known = self.type in (*_FLOATS, *_PACKED, *_QUANTIZED)
        return self.data is not None and is_known

    @property
    def zeros(self) -> int:
        """Integer. How many numbers of a parameter stand for exactly 0."""
        stored = self.stored
        points = self.zero_points
        zero: np.ndarray | int = 0
        if points.size > 1 and not self.is_sparse:
            shape = [1] * len(self.shape)
            shape[self.quantized_axis] = -1
            stored, zero = stored.reshape(self.shape), points.reshape(shape)
        elif points.size > 0:
            zero = points.flat[0]
        return self.size - int(np.count_nonzero(stored != zero))

    @property
    def stored(self) -> np.ndarray:
        """Array of the numbers that the file holds, flat, as integers if they
        are quantized; of constants only."""
        data = cast(np.ndarray, self.data)
        if self.type == "INT4":  # two in a byte, the first one low
            halves = np.stack([data & 15, data >> 4], axis=-1)
            return (halves.ravel()[: self.size].astype(np.int8) ^ 8) - 8
        if self.type == "BFLOAT16":  # without the sign, as -0 is 0
            return data.view(np.uint16) & 0x7FFF
        return data.view({**_FLOATS, **_QUANTIZED}[self.type])


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One operator of a file.

    Args:
        kind: String, as the schema names it, such as `"CONV_2D"`.
        inputs: Tuple of indices of tensors; negative where one is left out.
        outputs: Tuple of indices of tensors; empty where it only has an
            effect, such as to assign to a variable.
        options: What the schema has for this kind; may be `None`.
    """

    kind: str
    inputs: tuple
    outputs: tuple
    options: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """One graph of a file; the first is the model, others are in loops.

    Args:
        tensors: Tuple of `Tensor`.
        operators: Tuple of `Operator`, in the order in which they run.
        inputs: Tuple of indices of tensors.
        outputs: Tuple of indices of tensors.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple
    outputs: tuple

    @functools.cached_property
    def producers(self) -> dict[int, Operator]:
        """Dict from the index of a tensor to the operator that computes it."""
        return {
            index: operator
            for operator in self.operators
            for index in operator.outputs
        }

    @functools.cached_property
    def consumers(self) -> dict[int, list[Operator]]:
        """Dict from the index of a tensor to the operators that read it."""
        found = collections.defaultdict(list)
        for operator in self.operators:
            for index in dict.fromkeys(operator.inputs):
                found[index].append(operator)
        return found

    def constant(self, index: int) -> Tensor | None:
        """The constant that a tensor is, unpacked or not; else `None`.

        Args:
            index: Index of a tensor.

        Returns:
            `Tensor` as the file holds it, or `None` if it is computed.
        """
        while index >= 0 and self.tensors[index].data is None:
            producer = self.producers.get(index)
            if producer is None or producer.kind not in UNPACKING:
                return None
            index = producer.inputs[0]
        return self.tensors[index] if index >= 0 else None
