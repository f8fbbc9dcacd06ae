"""torch: a loop of your own with DistributedDataParallel.

torchrun --standalone --nproc-per-node 2 torch_ddp.py
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import digits
import torch
from torch.nn.parallel import DistributedDataParallel

import kprune

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--criterion", default="magnitude")
parser.add_argument("--save", help="a .npz for masks and weights")
arguments = parser.parse_args()

# Reads the environment that torchrun sets. On GPUs: "nccl".
torch.distributed.init_process_group("gloo")
process = torch.distributed.get_rank()
processes = torch.distributed.get_world_size()

x, y = map(torch.from_numpy, digits.load(process, processes))
model = digits.build()
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(
    [variable.value for variable in model.trainable_variables],
    digits.LEARNING_RATE,
    digits.MOMENTUM,
)
loss_function = torch.nn.CrossEntropyLoss()
batch_size = digits.BATCH_SIZE // processes

members = digits.members(arguments.criterion)
pruner = kprune.Pruner(digits.SPARSITY, **members)
sparsities = []
for epoch in range(digits.EPOCHS):
    for images, labels in zip(x.split(batch_size), y.split(batch_size)):
        optimizer.zero_grad()
        loss_function(parallel(images, training=True), labels.long()).backward()
        optimizer.step()
    # Each process does this by itself, from weights that are equal.
    pruner.update(model, (epoch + 1) / digits.EPOCHS)
    sparsities.append(kprune.sparsity(model))

digits.finish(
    model,
    sparsities,
    {f"cpu of process {process}": kprune.weights.to_numpy},
    process,
    arguments.save,
)
torch.distributed.destroy_process_group()
