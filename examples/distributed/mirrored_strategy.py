"""TensorFlow: `fit` under a MirroredStrategy, here over virtual CPUs.

python mirrored_strategy.py --devices 2
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import digits
import tensorflow as tf

import kprune

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--devices", type=int, default=2)
parser.add_argument("--criterion", default="magnitude")
parser.add_argument("--save", help="a .npz for masks and weights")
arguments = parser.parse_args()

# On GPUs these lines go: `tf.distribute.MirroredStrategy()` takes them all.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * arguments.devices,
)
devices = [f"CPU:{index}" for index in range(arguments.devices)]

strategy = tf.distribute.MirroredStrategy(devices)
with strategy.scope():
    model = digits.build_compiled()

x, y = digits.load()
members = digits.members(arguments.criterion)
history = model.fit(
    x,
    y,
    batch_size=digits.BATCH_SIZE,
    epochs=digits.EPOCHS,
    shuffle=False,
    verbose=0,
    callbacks=[kprune.PruningScheduler(digits.SPARSITY, **members)],
)


def copy_on(index):
    return lambda variable: strategy.experimental_local_results(variable.value)[
        index
    ].numpy()


digits.finish(
    model,
    history.history["sparsity"],
    {device: copy_on(index) for index, device in enumerate(devices)},
    save=arguments.save,
)
