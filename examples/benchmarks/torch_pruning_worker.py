"""The other side of `against_torch_pruning.py`: a process with Torch-Pruning.

It is started by `against_torch_pruning.py`, in an environment that has torch
and Torch-Pruning alone, and takes commands from it: a line of JSON each, in
and out. The nets are those of torchvision, layer by layer and by the same
names, in plain torch, since the wheels of torchvision on PyPI do not load
with a CPU build of torch.
"""

import copy
import gc
import importlib.metadata
import json
import os
import platform
import sys
import time

import torch
import torch_pruning
from torch import nn

RATIO = 0.5


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; the one of 3 x 3 has the stride."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """25,557,032 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(64, 64, 3, 1)
        self.layer2 = self._stage(256, 128, 4, 2)
        self.layer3 = self._stage(512, 256, 6, 2)
        self.layer4 = self._stage(1024, 512, 3, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, 1000)

    def _stage(self, inputs, width, blocks, stride):
        rest = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Bottleneck(inputs, width, stride), *rest)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def conv_bn_relu(inputs, outputs, size, stride=1, groups=1):
    """A convolution, its normalization and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(
            inputs, outputs, size, stride, size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        width = inputs * expansion
        expand = [conv_bn_relu(inputs, width, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu(width, width, 3, stride, groups=width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2(nn.Module):
    """3,504,872 parameters."""

    def __init__(self):
        super().__init__()
        blocks, inputs = [conv_bn_relu(3, 32, 3, 2)], 32
        for expansion, outputs, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for index in range(count):
                blocks.append(
                    InvertedResidual(
                        inputs, outputs, 1 if index else stride, expansion
                    )
                )
                inputs = outputs
        self.features = nn.Sequential(*blocks, conv_bn_relu(320, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class DenseLayer(nn.Module):
    """Reads all that the layers before it in the block have made."""

    def __init__(self, inputs):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, 128, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(128)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, features):
        x = torch.cat(features, 1)
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Layers, each of which adds 32 channels."""

    def __init__(self, inputs, count):
        super().__init__()
        for index in range(count):
            self[f"denselayer{index + 1}"] = DenseLayer(inputs + 32 * index)

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    """Halves the channels, the height and the width."""

    def __init__(self, inputs):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)


class DenseNet121(nn.Module):
    """7,978,856 parameters."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(64)
        self.features.relu0 = nn.ReLU(inplace=True)
        self.features.pool0 = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, count in enumerate((6, 12, 24, 16), 1):
            block = DenseBlock(channels, count)
            self.features.add_module(f"denseblock{index}", block)
            channels += 32 * count
            if index < 4:
                transition = Transition(channels)
                self.features.add_module(f"transition{index}", transition)
                channels //= 2
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x):
        x = nn.functional.relu(self.features(x), inplace=True)
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        return self.classifier(torch.flatten(x, 1))


NETS = {net.__name__: net for net in (ResNet50, MobileNetV2, DenseNet121)}


def enliven(model) -> None:
    """Draws scales and shifts of normalizations, as `live.enliven` does."""
    generator = torch.Generator().manual_seed(0)
    for norm in _norms(model):
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.uniform_(-0.3, 0.3, generator=generator)


def take_statistics(model, x) -> None:
    """Gives normalizations the statistics of live data, somewhat off."""
    generator = torch.Generator().manual_seed(1)
    for norm in _norms(model):
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(x)
    model.eval()
    for norm in _norms(model):
        norm.momentum = 0.1
        jitter = torch.empty_like(norm.running_var)
        norm.running_var *= jitter.uniform_(0.8, 1.25, generator=generator)


def _norms(model) -> list:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def pruner(model, x):
    """The pruner of half of all channels; an output is not pruned."""
    (classifier,) = (m for m in model.modules() if isinstance(m, nn.Linear))
    return torch_pruning.pruner.MagnitudePruner(
        model,
        x,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[classifier],
    )


def choose(model, x) -> tuple[list, dict]:
    """What the pruner would take, as long as nothing is taken.

    Returns:
        Tuple: a list of names of the layers where groups begin, each with the
        numbers of the channels that go; and a dict from the layers that make
        channels, and normalizations, to the numbers of theirs that go.
    """
    chosen, made = [], {}
    names = {module: name for name, module in model.named_modules()}
    choosing = pruner(model, x)
    # Nothing is pruned between the groups, so all numbers are the dense ones.
    for group in choosing.step(interactive=True):
        chosen.append((names[group[0].dep.target.module], group[0].idxs))
        for dependency, channels in group:
            module = dependency.target.module
            if choosing.DG.is_out_channel_pruning_fn(
                dependency.handler
            ) and isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                made.setdefault(module, []).extend(channels)
    return chosen, made


def remove(model, graph, chosen) -> None:
    """Prunes chosen groups, in place."""
    for name, channels in chosen:
        module = model.get_submodule(name)
        prune_out = graph.get_pruner_of_module(module).prune_out_channels
        graph.get_pruning_group(module, prune_out, channels).prune()


def difference(one, other) -> float:
    """The largest difference, in parts of the largest output."""
    return float((one - other).abs().max() / one.abs().max())


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model, x) -> int:
    """Multiply-accumulates of convolutions and of the classifier."""
    counts = []

    def count(module, inputs, output):
        counts.append(output.numel() * module.weight[0].numel())

    handles = [
        module.register_forward_hook(count)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return sum(counts)


class Worker:
    """The commands, by the names of its methods."""

    def __init__(self):
        self._dense = None
        self._chosen = None
        self._x = None

    def versions(self) -> str:
        return ", ".join(
            [f"Python {platform.python_version()}"]
            + [
                f"{name} {importlib.metadata.version(name)}"
                for name in ("torch-pruning", "torch")
            ]
        )

    def compare(self, net: str, size: int) -> dict:
        """Differences between masked and slim, in float64.

        Returns:
            Dict: what `mask` says is zeroed, to the difference; and the
            smallest spread between two samples.
        """
        torch.manual_seed(0)
        dense = NETS[net]().double()
        enliven(dense)
        x = torch.randn(8, 3, size, size, dtype=torch.float64)
        take_statistics(dense, x)
        results = {"spread": float("inf")}
        for mask in ("filters and norms", "filters"):
            masked = copy.deepcopy(dense)
            chosen, made = choose(masked, x[:1])
            for module, channels in made.items():
                if mask == "filters" and isinstance(module, nn.BatchNorm2d):
                    continue
                module.weight.data[channels] = 0
                if module.bias is not None:
                    module.bias.data[channels] = 0
            # Else the signal, halved at every layer, hardly arrives.
            take_statistics(masked, x)
            slim = copy.deepcopy(masked)
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(slim, example_inputs=x[:1])
            remove(slim, graph, chosen)
            with torch.no_grad():
                expected, outputs = masked(x[:2]), slim(x[:2])
            results[mask] = difference(expected, outputs)
            spread = difference(expected[:1], expected[1:])
            results["spread"] = min(results["spread"], spread)
        return results

    def load(self, net: str, size: int) -> dict:
        """Makes the net that is timed.

        Returns:
            Dict: parts of its parameters and multiply-accumulates that the
            pruner leaves.
        """
        torch.manual_seed(0)
        self._dense = NETS[net]().eval()
        self._x = torch.randn(1, 3, size, size)
        self._chosen, _ = choose(self._dense, self._x)
        slim = copy.deepcopy(self._dense)
        pruner(slim, self._x).step()
        return {
            "parameters": parameters(slim) / parameters(self._dense),
            "MACs": macs(slim, self._x) / macs(self._dense, self._x),
        }

    def analysis(self) -> float:
        return _seconds(lambda: self._graph(self._dense))

    def removal(self) -> float:
        slim = copy.deepcopy(self._dense)
        graph = self._graph(slim)
        return _seconds(lambda: remove(slim, graph, self._chosen))

    def all(self) -> float:
        def run():
            pruner(copy.deepcopy(self._dense), self._x).step()

        return _seconds(run)

    def _graph(self, model):
        graph = torch_pruning.DependencyGraph()
        return graph.build_dependency(model, example_inputs=self._x)


def _seconds(run) -> float:
    gc.collect()
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print must not get between the answers.
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        answer = getattr(worker, command)(**arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
