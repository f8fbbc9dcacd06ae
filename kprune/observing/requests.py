"""A member asks for what it needs by the names of its keyword-only parameters.

As a test names its fixtures:

    def aged(kernel, *, mask, progress): ...

| name | what the member gets | who can ask |
|---|---|---|
| `mask` | boolean array of the kernel's shape: the mask as it is now | criteria, granularities |
| `sparsity` | float: the sparsity asked of this kernel | criteria |
| `progress` | float in [0, 1]: how much of the training is done | all |
| `generator` | `numpy.random.Generator`, seeded, of this kernel's own | criteria, granularities |
| `gradient` | float array of the kernel's shape: the mean over batches of the loss's gradient | criteria |
| `squared_gradient` | the same of its square | criteria |
| `input_norm` | float array of the kernel's shape: the root mean square of what each weight multiplies | criteria |
| `input_magnitude` | the same of the mean absolute value | criteria |
| `input_zeros` | the same of the share of zeros | criteria |
| `gram` | float array `(matrices, inputs, inputs)`: the second moment of what the kernel reads, see below | criteria |
| `score` | callable from some of the weights to their scores, see below | granularities |
| `outputs_last` | callable from an array of the kernel's shape to it as `(..., inputs, outputs)` | granularities |
| `scores` | sequence, one item a layer: an iterable of its kernels' scores | allocations |
| `final_sparsity` | float: the sparsity that the schedule ends with | allocations, `over_groups` |
| `role` | `"out"`, `"in"` or `"through"`: whether the axis makes channels, reads them, or goes along | `of_slices` |
| `layers` | sequence: the prunable layers | `over_groups` |
| `makers` | sequence, one item a class: a tuple of the layers that make it | `over_groups` |
| `least` | sequence, one item a class: how many of its filters have to stay | `over_groups` |
| `macs` | sequence, one item a class: the multiply-accumulates that go with one filter | `over_groups` |

A parameter without a default must be one of these names. One whose default is
`None` gets the value too, where its name is among them. Any other default is
the member's own option, and stays.

Gradients, norms and grams are computed from the data that is given once, as
`kprune.prune(model, ..., data=)`: see `kprune.observing.samples.read`. The
weights count as they do then: masked ones are 0, and have a gradient as well.
Of recurrent layers steps that Keras masks (`mask_zero`, `Masking`) do not
count, since they change no state. Elsewhere they do: a Dense layer computes
them like all others, and what comes next may read them.

A criterion that asks for `gram` is called with the kernel as matrices, an array
of shape `(matrices, inputs, outputs)`, and whatever else it asks for comes in
that shape too. Most kernels are one matrix; a grouped convolution has one for
each group, a depthwise one for each channel. The inputs of a convolution are
those of its window.

A granularity that asks for `score` can rank single weights, wherever they are,
a piece at a time, so that no array of all scores is made. It is called with
the kernel in its own order in place of the scores; where the scores are known
already it gets these, in that order, and `score` is `None`.

Where whole groups go (see `kprune.structure`), two methods count, of members
that have them:

- `of_slices(kernel, axis)` of a criterion returns one score for each slice of
  the kernel along the axis, or `None` where the kernel has no say; no weight is
  scored, nor pooled by the granularity. It can ask for what criteria can. With
  an attribute `slices_of`, a tuple of names such as `("gamma",)`, it is called
  with the variables of these names in place of the kernels.
- `over_groups(scores, sparsity)` of an allocation returns one sparsity for each
  class of groups, those that come from the same layers; `scores` has of each
  class an array, one score for each filter, -inf for one that goes first.
"""  # noqa: E501

import inspect
from collections.abc import Callable, Mapping

_KERNEL = ("generator", "mask", "progress")
# What is computed from data.
_SHAPED = (
    "gradient",
    "squared_gradient",
    "input_norm",
    "input_magnitude",
    "input_zeros",
)
OBSERVED = (*_SHAPED, "gram")
# What comes in the shape of the kernel.
OF_KERNELS_SHAPE = ("mask", *_SHAPED)
# What each family can ask for.
KNOWN: dict[str, tuple[str, ...]] = {
    "criterion": (*_KERNEL, "sparsity", *OBSERVED),
    "granularity": (*_KERNEL, "outputs_last", "score"),
    "allocation": ("final_sparsity", "progress", "scores"),
    "allocation over groups": (
        "final_sparsity",
        "layers",
        "least",
        "macs",
        "makers",
        "progress",
    ),
}
# Slices of kernels, and those of the variables named by `slices_of`.
KNOWN["criterion of slices"] = (*KNOWN["criterion"], "role")
KNOWN["criterion of other slices"] = ("progress", "role")


def names(member: Callable, family: str) -> tuple[str, ...]:
    """What a member asks for.

    Args:
        member: A criterion, granularity or allocation.
        family: String: one of `KNOWN`.

    Returns:
        Tuple of names.

    Raises:
        ValueError: If it asks for what is not known, with the list.

    Example:

    >>> def aged(kernel, *, progress, power=2):
    ...     return np.abs(kernel) ** (power * progress)
    >>> kprune.observing.requests.names(aged, "criterion")
    ('progress',)
    """
    known = KNOWN[family]
    asked = []
    for parameter in _keywords(member):
        name, is_needed = parameter.name, parameter.default is parameter.empty
        if name in known and (is_needed or parameter.default is None):
            asked.append(name)
        elif is_needed:
            raise ValueError(
                f"The {family} {member!r} asks for `{name}`, which is not "
                f"known. Expected keyword-only parameters named {list(known)}, "
                "or ones with a default."
            )
    return tuple(asked)


def _keywords(member) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(member).parameters.values()
    except (TypeError, ValueError):
        return []  # A function in C, such as some of NumPy's: no names.
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def answer(
    member: Callable, family: str, *arguments, offers: Mapping[str, Callable]
):
    """Calls a member with what it asks for.

    Args:
        member: A criterion, granularity or allocation.
        family: String: one of `KNOWN`.
        *arguments: Its positional arguments.
        offers: Mapping from a name to a callable without arguments that
            returns what goes by it.

    Returns:
        What the member returns.

    Raises:
        ValueError: If it asks for what is not known.
    """
    asked = {name: offers[name]() for name in names(member, family)}
    return member(*arguments, **asked)
