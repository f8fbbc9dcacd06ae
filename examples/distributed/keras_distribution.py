"""JAX: `fit` with keras.distribution, on many devices and processes.

Two virtual devices:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 \\
        python keras_distribution.py --parallel data

Two processes: start it twice, the second time with the id 1.

    export KERAS_DISTRIBUTION_JOB_ADDRESSES=127.0.0.1:12345
    export KERAS_DISTRIBUTION_NUM_PROCESSES=2
    KERAS_DISTRIBUTION_PROCESS_ID=0 python keras_distribution.py
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import digits
import jax
import keras
import numpy as np

import kprune

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--parallel", choices=["data", "model"], default="data")
parser.add_argument("--criterion", default="magnitude")
parser.add_argument("--save", help="a .npz for masks and weights")
arguments = parser.parse_args()

if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
    # GPUs have collectives of their own; CPUs need this line.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Reads the environment: addresses, number of processes, id of this one.
    keras.distribution.initialize()

devices = keras.distribution.list_devices()
process, processes = jax.process_index(), jax.process_count()


def data_parallel():
    """Every device holds all weights and sees a part of each batch."""
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        )
    )
    return digits.load(process, processes)


def model_parallel():
    """Every device holds a part of the hidden layer and sees all data."""
    mesh = keras.distribution.DeviceMesh(
        (1, len(devices)), ("batch", "model"), devices
    )
    layout_map = keras.distribution.LayoutMap(mesh)
    # `.*` at the end: the masks are laid out as their weights are.
    layout_map[".*hidden/kernel.*"] = (None, "model")
    layout_map[".*hidden/bias.*"] = ("model",)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=layout_map,
            batch_dim_name="batch",
            auto_shard_dataset=False,
        )
    )
    return digits.load()


if arguments.parallel == "data":
    x, y = data_parallel()
    batch_size = digits.BATCH_SIZE // processes
else:
    x, y = model_parallel()
    batch_size = digits.BATCH_SIZE

model = digits.build_compiled()
members = digits.members(arguments.criterion)
history = model.fit(
    x,
    y,
    batch_size=batch_size,
    epochs=digits.EPOCHS,
    shuffle=False,
    verbose=0,
    callbacks=[kprune.PruningScheduler(digits.SPARSITY, **members)],
)


def copy_on(index):
    return lambda variable: np.asarray(
        variable.value.addressable_shards[index].data
    )


# What is made from here on, such as the stripped model, is of this process.
keras.distribution.set_distribution(None)
digits.finish(
    model,
    history.history["sparsity"],
    {
        str(device): copy_on(index)
        for index, device in enumerate(jax.local_devices())
    },
    process,
    arguments.save,
)
