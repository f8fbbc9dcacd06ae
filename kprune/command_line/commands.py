"""What each command does, and what it prints: as JSON, and as text.

Each takes the parsed arguments and the `Steps` that show how far it is, and
returns both: a dict, and a string.
"""

import dataclasses

from kprune import exporting, pruning, searching, sensitivities, stripping
from kprune.budgets import Budget
from kprune.conversion import make_prunable
from kprune.exporting import target
from kprune.files import load_arrays, load_model
from kprune.measuring import accuracy, costs, reporting
from kprune.structure import removal
from kprune.structure.graph import channel_graph
from kprune.tflite.sparse_inference import check_sparse_inference


def report(options, steps):
    """What was pruned, and beside a dense model."""
    if options.path.suffix == ".tflite":
        compares = options.dense or options.data or options.files
        if compares or options.latency:
            raise ValueError(
                "A `.tflite` file has no masks to report on, so nothing is "
                "compared with it. Pass the pruned `.keras` file, and the "
                "`.tflite` files of both models as --files DENSE PRUNED; or "
                "time one file with `kprune cost` and --reference. "
                f"Received: '{options.path}'"
            )
        return cost(options, steps)
    steps.begin("Loading", of=2)
    model = load_model(options.path)
    dense = options.dense and load_model(options.dense)
    steps.begin("Comparing")
    made = reporting.report(
        model,
        dense=dense,
        data=options.data and _samples_and_classes(options.data),
        files=_named(options.files),
        latency=options.latency,
    )
    return made.to_dict(), str(made)


def _named(pairs) -> dict:
    """The pairs of files by the shortest names that tell them apart."""
    pairs = list(dict.fromkeys(map(tuple, pairs)))
    for name in (
        lambda dense, pruned: pruned.name,
        lambda dense, pruned: str(pruned),
        lambda dense, pruned: f"{pruned} of {dense}",
    ):
        named = {name(*pair): pair for pair in pairs}
        if len(named) == len(pairs):
            break
    return named


def cost(options, steps):
    """What a model or file costs, and beside a reference."""
    steps.begin("Measuring" if options.reference else "Counting")
    path = options.path
    found = costs.cost(path, reference=options.reference)
    if path.suffix != ".tflite":
        return found.to_dict(), str(found)
    check = check_sparse_inference(path)
    result = {**found.to_dict(), "sparse_inference": check.to_dict()}
    return result, f"{found}\n{check}"


def graph(options, steps):
    """The groups of a model's channels."""
    steps.begin("Reading the structure")
    graph = channel_graph(
        load_model(options.path), pad_layer_norm=options.pad_layer_norm
    )
    return graph.to_dict(), str(graph)


def strip(options, steps):
    """Writes a plain Keras model."""

    def plain(model):
        return stripping.strip(model, compact=not options.keep_shapes)

    return _write(options, steps, plain, format="keras")


def compact(options, steps):
    """Writes a plain model without dead channels."""
    return _write(options, steps, removal.compact, format="keras")


def export(options, steps):
    """Writes a file for a device."""
    return _write(options, steps, lambda model: model, **_exported(options))


def prune(options, steps):
    """Prunes a trained model, fits what stays, writes a file for a device."""
    data = options.data and _data(options.data)
    arguments = _exported(options)
    asked = options.sparsity
    if options.budget:
        format = target.format_of(options.output, options.format)
        asked = Budget(
            **options.budget, format=format, quantize=options.quantize
        )
    done: list[pruning.Pruned] = []

    def pruned(model):
        model = make_prunable(model)
        with steps.giving_way() as verbose:
            result = pruning.set_masks(
                model,
                asked,
                criterion=options.criterion,
                granularity=options.granularity,
                allocation=options.allocation,
                data=data,
                loss=options.loss,
                reconstruct=data is not None and options.reconstruct,
                verbose=verbose,
            )
        done.append(result)
        return model

    if arguments["representative_data"] is None and options.quantize == "int8":
        samples = data[0] if isinstance(data, tuple) else data
        arguments["representative_data"] = samples
    found, text = _write(options, steps, pruned, "Pruning", **arguments)
    (result,) = done
    if result.reconstruction is not None:
        repair = result.reconstruction
        found = {**found, "reconstruction": dataclasses.asdict(repair)}
        text = f"{repair}\n{text}"
    if result.met is not None:
        found = {**found, "budget": result.met.to_dict()}
        text = f"{result.met}\n{text}"
    return found, text


def sensitivity(options, steps):
    """The accuracy where one layer alone is pruned."""
    data = _samples_and_classes(options.data)

    def score(model):
        (found,) = accuracy.accuracies([model], data)
        return found

    steps.begin("Loading", of=2)
    model = make_prunable(load_model(options.path))
    steps.begin("Measuring")
    with steps.giving_way() as verbose:
        found = sensitivities.sensitivity(
            model,
            score,
            data=data,
            sparsities=options.sparsities,
            granularity=options.granularity,
            criterion=options.criterion,
            loss=options.loss,
            reconstruct=options.reconstruct,
            path=options.resume,
            verbose=verbose,
        )
    return found.to_dict(), str(found)


def search(options, steps):
    """Writes the smallest model whose accuracy holds."""
    data = _samples_and_classes(options.data)
    arguments = _exported(options)
    if arguments["representative_data"] is None and options.quantize == "int8":
        arguments["representative_data"] = data[0]
    found: list[searching.SearchResult] = []

    def smallest(model):
        with steps.giving_way() as verbose:
            result = searching.search(
                model,
                lambda small: accuracy.with_error(small, data),
                at_least=options.at_least,
                minimize=options.minimize,
                data=data,
                granularity=options.granularity,
                criterion=options.criterion,
                allocation=options.allocation,
                loss=options.loss,
                format=target.format_of(options.output, options.format),
                quantize=options.quantize,
                trials=options.trials,
                path=options.folder,
                verbose=verbose,
            )
        found.append(result)
        return result.model

    written, text = _write(options, steps, smallest, "Searching", **arguments)
    (result,) = found
    return {**written, "search": result.to_dict()}, f"{result}\n{text}"


def _exported(options) -> dict:
    """The arguments of `kprune.export`."""
    data = options.representative_data
    return {
        "format": options.format,
        "quantize": options.quantize,
        "representative_data": data and _samples(data),
        "integer_io": options.integer_io,
        "sparse": {"auto": "auto", "always": True, "never": False}[
            options.sparse
        ],
    }


def _write(options, steps, change, doing="Cutting", **arguments):
    # What is no file `--force` would not replace either.
    target.check(
        options.output, target.format_of(options.output, arguments["format"])
    )
    if options.output.exists() and not options.force:
        raise ValueError(
            f"'{options.output}' exists. Choose another path, or replace it "
            "with --force."
        )
    steps.begin("Loading", of=3)
    model = load_model(options.path)
    steps.begin(doing)
    model = change(model)
    steps.begin("Writing and checking")
    result = exporting.export(model, options.output, **arguments)
    return dataclasses.asdict(result), str(result)


def _samples(path):
    return _of_inputs(load_arrays(path))


def _of_inputs(arrays):
    # Several arrays go by the names of the inputs.
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _data(path):
    """Samples, with their targets where the file has 'x' and 'y'."""
    arrays = load_arrays(path)
    if arrays.keys() == {"x", "y"}:
        return arrays["x"], arrays["y"]
    return _of_inputs(arrays)


def _samples_and_classes(path):
    arrays = load_arrays(path)
    if not {"x", "y"} <= arrays.keys():
        held = sorted(filter(None, arrays)) or "one array without a name"
        raise ValueError(
            "--data takes a `.npz` file with the arrays 'x' and 'y', such as "
            "`numpy.savez('data.npz', x=samples, y=classes)` writes. "
            f"Received: '{path}' with {held}"
        )
    return arrays["x"], arrays["y"]
