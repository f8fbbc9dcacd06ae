"""How fast `.tflite` files run in the LiteRT interpreter, side by side."""

import dataclasses
import math
import os
import time

import numpy as np

from kprune.tflite import flatbuffer, interpreter

# Other models pass through the caches between two turns of one, so a turn has
# to last; what a computer does besides then meets all models alike.
_SECONDS_PER_TURN = 0.02


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio of paired times: its median and its quartiles.

    Args:
        median: Float.
        low: Float. The first quartile.
        high: Float. The third quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long a file takes, against a reference in the same minutes.

    Args:
        seconds: Float. The median time of one run.
        reference_seconds: Float. That of the reference.
        ratio: `Ratio` of the two, over rounds that ran both.
        control: `Ratio` of the reference against itself. How far it is from
            1 says how exact `ratio` is.
        rounds: Integer. How many rounds were timed.

    Example:

    ```python
    cost = kprune.cost("pruned.tflite", reference="dense.tflite")
    print(cost.latency.ratio, cost.latency.control)
    ```
    """

    seconds: float
    reference_seconds: float
    ratio: Ratio
    control: Ratio
    rounds: int

    def rows(self) -> list[tuple[str, str]]:
        """The lines that a table has of it, as pairs of label and text."""
        both = f"{1e3 * self.seconds:.3f}, {1e3 * self.reference_seconds:.3f}"
        return [
            ("Latency, of the reference", str(self.ratio)),
            ("The reference, of itself", str(self.control)),
            ("Milliseconds, the reference's", both),
        ]


def measure(
    path: str | os.PathLike,
    reference: str | os.PathLike,
    *,
    rounds: int = 50,
) -> Latency:
    """Times a `.tflite` file and a reference in turns, on one thread.

    Every round runs the file, the reference, and the reference loaded a
    second time as control, in an order drawn anew. Before it is timed each
    runs once, which warms its caches. The input is random.

    Args:
        path: The file.
        reference: The file to compare with.
        rounds: Integer. How many rounds are timed.

    Returns:
        A `Latency`.

    Raises:
        ValueError: If a file is missing, damaged, or cannot run, or its inputs
            leave more open than the batch.
    """
    loaded = [load(file) for file in (path, reference, reference)]
    durations = [_run(of_file, 3) for of_file in loaded]
    invokes = [math.ceil(_SECONDS_PER_TURN / seconds) for seconds in durations]
    times = np.zeros((3, rounds))
    generator = np.random.default_rng(0)
    for index in range(rounds):
        for which in generator.permutation(3):
            loaded[which].invoke()
            times[which, index] = _run(loaded[which], invokes[which])
    seconds, reference_seconds, _ = np.median(times, axis=1)
    return Latency(
        float(seconds),
        float(reference_seconds),
        _ratio(times[0] / times[1]),
        _ratio(times[2] / times[1]),
        rounds,
    )


def load(path: str | os.PathLike):
    """Loads a `.tflite` file into the interpreter, and runs it once.

    Args:
        path: The file.

    Returns:
        `ai_edge_litert.interpreter.Interpreter` with one thread and random
        input.

    Raises:
        ValueError: If the file is missing, damaged, or cannot run, or its
            inputs leave more open than the batch.
    """
    # A damaged file could bring the interpreter and Python down.
    graph, *_ = flatbuffer.read(path)
    for tensor in (graph.tensors[index] for index in graph.inputs):
        sizes = tuple(
            None if axis in tensor.open_axes else size
            for axis, size in enumerate(tensor.shape)
        )
        if None in sizes[1:]:
            raise ValueError(
                "A file is timed on inputs of fixed sizes; only the batch may "
                "be open. Export the model with `input_signature` of fixed "
                "sizes, such as (1, 224, 224, 3). Received: "
                f"'{os.fspath(path)}' with the input '{tensor.name}' of shape "
                f"{sizes}"
            )
    try:
        loaded = interpreter.load(path)
        loaded.allocate_tensors()
        for detail in loaded.get_input_details():
            loaded.set_tensor(detail["index"], _random(detail))
        loaded.invoke()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"LiteRT cannot run '{os.fspath(path)}': {error}. Files that "
            "`kprune.export` writes were run once; export the model again "
            "with it."
        ) from error
    return loaded


def _random(detail) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape, dtype = detail["shape"], np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if detail["quantization"][0]:
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype)
    # 0 and 1 are indices of any table of two rows.
    return generator.integers(2, size=shape).astype(dtype)


def _run(loaded, invokes) -> float:
    """Seconds of one invoke."""
    started = time.perf_counter()
    for _ in range(invokes):
        loaded.invoke()
    return (time.perf_counter() - started) / invokes


def _ratio(ratios) -> Ratio:
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return Ratio(float(median), float(low), float(high))
