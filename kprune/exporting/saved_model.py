"""Writing compact SavedModels.

Keras's own export tracks every variable twice on TensorFlow, so its
SavedModel holds the weights twice. Here a plain `tf.Module` tracks each once.
"""

import pathlib

import keras

from kprune.exporting import other_backend
from kprune.structure import functional

BATCH_SIZE = 2
CONTENTS = {
    "assets",
    "fingerprint.pb",
    "saved_model.pb",
    "variables",
}


def write(model: keras.Model, path, batch_size: int | None = None) -> None:
    """Writes a model as a SavedModel.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of the folder, which must not exist.
        batch_size: Integer, or `None` for any.
    """
    if keras.backend.backend() != "tensorflow":
        other_backend.write(model, path, __name__)
        return
    import tensorflow as tf

    specs = {
        tensor.name: tf.TensorSpec(
            (batch_size, *tensor.shape[1:]), tensor.dtype, name=tensor.name
        )
        for tensor in model.inputs
    }
    struct = keras.tree.pack_sequence_as(
        functional.inputs_struct(model), list(specs.values())
    )

    @tf.function(input_signature=[struct], autograph=False)
    def serve(inputs):
        return model(inputs, training=False)

    @tf.function(autograph=False)
    def serving_default(**tensors):
        flat = [tensors[name] for name in specs]
        outputs = serve(keras.tree.pack_sequence_as(struct, flat))
        flat_outputs = keras.tree.flatten(outputs)
        return {f"output_{i}": x for i, x in enumerate(flat_outputs)}

    module = tf.Module()
    module.serve = serve
    module.model_variables = list(serve.get_concrete_function().variables)
    signature = serving_default.get_concrete_function(**specs)
    tf.saved_model.save(
        module, str(path), signatures={"serving_default": signature}
    )


def run(path: pathlib.Path, model: keras.Model, inputs: list) -> list:
    """Loads the SavedModel and calls its signature.

    Args:
        path: The folder.
        model: The model that was written.
        inputs: List of arrays, one per input of the model.

    Returns:
        List of arrays, one per output.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    names = [tensor.name for tensor in model.inputs]
    tensors = {n: tf.constant(x) for n, x in zip(names, inputs)}
    outputs = loaded.signatures["serving_default"](**tensors)
    return [outputs[f"output_{i}"].numpy() for i in range(len(outputs))]
