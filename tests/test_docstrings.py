"""The examples in the docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import io
import pkgutil

import keras
import numpy as np
import pytest

import kprune

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the examples show the tensors of TensorFlow",
)

MODULES = ["kprune"] + [
    module.name
    for module in pkgutil.walk_packages(kprune.__path__, "kprune.")
    if not module.name.endswith("__main__")  # importing it runs it
]

# Namespaces whose contents are public as a whole.
NAMESPACES = [
    "allocations",
    "criteria",
    "granularities",
    "schedules",
    "testing",
]


def is_documentable(member):
    return inspect.isclass(member) or inspect.isroutine(member)


def public_names():
    for name, member in vars(kprune).items():
        if not name.startswith("_") and is_documentable(member):
            yield f"kprune.{name}", member
    for namespace in NAMESPACES:
        module = importlib.import_module(f"kprune.{namespace}")
        for name, member in vars(module).items():
            # Of the module itself, or of one in its folder.
            made_in = str(getattr(member, "__module__", ""))
            own = f"{made_in}.".startswith(f"{module.__name__}.")
            if own and not name.startswith("_") and is_documentable(member):
                yield f"{module.__name__}.{name}", member


PUBLIC = dict(public_names())


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some examples write files
    module = importlib.import_module(name)
    names = {"np": np, "keras": keras, "kprune": kprune}
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
        verbose=False,
    )
    report = io.StringIO()
    for example in doctest.DocTestFinder().find(module, name, globs=names):
        runner.run(example, out=report.write)
    assert runner.failures == 0, report.getvalue()


def test_modules_and_names_are_found():
    assert "kprune.structure.groups" in MODULES
    assert "kprune.testing" in MODULES
    assert {"kprune.prune", "kprune.PrunableDense"} <= PUBLIC.keys()
    assert "kprune.schedules.Polynomial" in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    docstring = inspect.getdoc(PUBLIC[name]) or ""
    assert "Example" in docstring, f"`{name}` has no example in its docstring"
    assert ">>> " in docstring or "```python" in docstring, (
        f"the example of `{name}` is neither a doctest nor a code block"
    )
