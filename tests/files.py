"""Reading what `kprune.export` wrote, without kprune."""

import importlib.util

import keras
import numpy as np
import pytest

# A process with TensorFlow writes these files for the other backends, which
# `exporting/test_formats.py` and `test_failures.py` try there.
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the file is the same, written by a slow second process",
)

needs_onnx = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name)
        for name in ("onnx", "onnxruntime", "tf2onnx")
    ),
    reason="needs kprune[onnx]",
)
DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 9: np.int8}


def tflite_model(path):
    """The parsed flatbuffer of a `.tflite` file."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def tflite_kernels(path):
    """The constants of rank 2 and more of a `.tflite`.

    Returns:
        List of tuples of a tensor and its values; a sparse tensor holds the
        values that are not left out.
    """
    model = tflite_model(path)
    kernels = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is None or len(tensor.shape) < 2:
            continue
        kernels.append(
            (tensor, np.frombuffer(bytes(data), DTYPES[tensor.type]))
        )
    return kernels


def contents(folder):
    """Dict from each file in a folder, at any depth, to what is in it."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
