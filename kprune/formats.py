"""The kinds of files that are written, by the names that users type.

Read by the command before it imports anything that takes time.
"""

FORMATS = ("keras", "onnx", "saved_model", "tflite")

# How a `.tflite` file is quantized.
QUANTIZATIONS = ("float16", "dynamic", "int8")
