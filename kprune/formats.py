"""Names that users type: the kinds of files, and what a budget is made of.

Read by the command before it imports anything that takes time.
"""

FORMATS = ("keras", "onnx", "saved_model", "tflite")

# How a `.tflite` file is quantized.
QUANTIZATIONS = ("float16", "dynamic", "int8")

# What is counted of a model, and what is measured of the file it becomes.
COUNTED = ("parameters", "macs")
MEASURED = ("bytes", "gzip_bytes", "latency")
COSTS = (*COUNTED, *MEASURED)
