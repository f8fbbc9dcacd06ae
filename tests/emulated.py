"""Runs every `.tflite` of a folder on its `input.npy`, into `outputs.npz`.

A program for an emulated CPU: NumPy and LiteRT, nothing else.
"""

import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

folder = pathlib.Path(sys.argv[1])
x = np.load(folder / "input.npy")
found = {}
for path in sorted(folder.glob("*.tflite")):
    runner = Interpreter(str(path), num_threads=1).get_signature_runner()
    ((name, details),) = runner.get_input_details().items()
    outputs = runner(**{name: x[..., : details["shape"][-1]]})
    for key, output in outputs.items():
        found[f"{path.stem}/{key}"] = output
np.savez(folder / "outputs.npz", **found)
