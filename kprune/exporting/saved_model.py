"""Writing compact SavedModels.

Keras's own export tracks every variable twice on TensorFlow, so its
SavedModel holds the weights twice. Here a plain `tf.Module` tracks each once.
"""

import errno
import fnmatch
import pathlib

import keras

from kprune import keras_internals
from kprune.exporting import other_backend, signature
from kprune.keras_internals import sublayers

_FILES = (
    "fingerprint.pb",
    "saved_model.pb",
    "variables/variables.data-*",
    "variables/variables.index",
)
_FOLDERS = ("assets", "variables")


def others(path: pathlib.Path) -> list[str]:
    """What is in a folder, at any depth, that no SavedModel of kprune has.

    Args:
        path: `pathlib.Path` of the folder.

    Returns:
        List of strings: paths in the folder.
    """
    found = []
    for inside in sorted(path.rglob("*")):
        name = inside.relative_to(path).as_posix()
        allowed = _FOLDERS if inside.is_dir() else _FILES
        fits = any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)
        is_special = not (inside.is_dir() or inside.is_file())
        if not fits or is_special or inside.is_symlink():
            found.append(name)
    if any(name.startswith("assets/") for name in found):
        assets = _assets(path)
        found = [name for name in found if name not in assets]
    return found


def _assets(path: pathlib.Path) -> set[str]:
    """The files that a SavedModel reads, such as those of vocabularies."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        content = (path / "saved_model.pb").read_bytes()
        saved = saved_model_pb2.SavedModel.FromString(content)
    except (DecodeError, OSError):
        return set()
    return {
        f"assets/{asset.filename}"
        for graph in saved.meta_graphs
        for asset in graph.asset_file_def
    }


def write(model: keras.Model, path: pathlib.Path, shapes: list) -> None:
    """Writes a model as a SavedModel.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of the folder, which must not exist.
        shapes: List of tuples: the shape of each input, batch size first.

    Raises:
        OSError: If TensorFlow cannot write, such as on a full disk.
    """
    if keras.backend.backend() != "tensorflow":
        other_backend.write(model, path, __name__, shapes)
        return
    import tensorflow as tf

    names = signature.names_of(model)
    output_names = signature.output_names_of(model)
    specs = {
        name: tf.TensorSpec(shape, tensor.dtype, name=name)
        for name, tensor, shape in zip(names, model.inputs, shapes)
    }
    inputs_struct = keras.tree.pack_sequence_as(
        keras_internals.inputs_struct(model), list(specs.values())
    )

    @tf.function(autograph=False)
    def computed(*tensors):
        inputs = keras.tree.pack_sequence_as(inputs_struct, list(tensors))
        return keras.tree.flatten(model(inputs, training=False))

    # Saving traces `serve` once more. Both call one graph of the model, which
    # is stored once.
    graph = computed.get_concrete_function(*specs.values())

    @tf.function(input_signature=[inputs_struct], autograph=False)
    def serve(inputs):
        outputs = graph(*keras.tree.flatten(inputs))
        return keras.tree.pack_sequence_as(
            keras_internals.outputs_struct(model), outputs
        )

    @tf.function(autograph=False)
    def serving_default(**tensors):
        outputs = graph(*[tensors[name] for name in specs])
        return dict(zip(output_names, outputs))

    module = tf.Module()
    module.serve = serve
    module.model_variables = list(graph.variables)
    module.model_tables = tables(model)
    concrete = serving_default.get_concrete_function(**specs)
    try:
        tf.saved_model.save(
            module, str(path), signatures={"serving_default": concrete}
        )
    except tf.errors.OpError as error:
        # Its own errors of reading and writing are no OSErrors.
        is_full = isinstance(error, tf.errors.ResourceExhaustedError)
        number = errno.ENOSPC if is_full else errno.EIO
        raise OSError(number, error.message) from error


def tables(model: keras.Model) -> list:
    """The tables of a model's layers, such as the vocabulary of a lookup.

    Args:
        model: A plain Keras model.

    Returns:
        List of what TensorFlow has to be told to save beside the variables.
    """
    import tensorflow as tf

    table = tf.saved_model.experimental.TrackableResource
    return [
        value
        for layer in sublayers(model)
        for value in vars(layer).values()
        if isinstance(value, table)
    ]


def load(path: pathlib.Path, model: keras.Model):
    """Loads the SavedModel.

    Args:
        path: The folder.
        model: The model that was written.

    Returns:
        Callable from a list of arrays, one per input, to a list of arrays,
        one per output.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    names = signature.names_of(model)
    output_names = signature.output_names_of(model)

    def run(inputs):
        tensors = {n: tf.constant(x) for n, x in zip(names, inputs)}
        # `loaded` holds the variables: it must live as long as this.
        outputs = loaded.signatures["serving_default"](**tensors)
        return [outputs[name].numpy() for name in output_names]

    return run
