"""The public surface is annotated, and type checkers are told so."""

import importlib
import importlib.resources
import inspect

import pytest

import kprune

# What they import is public too.
PACKAGES = ["kprune", "kprune.structure"]
NAMESPACES = [
    "kprune.allocations",
    "kprune.criteria",
    "kprune.files",
    "kprune.granularities",
    "kprune.plots",
    "kprune.schedules",
    "kprune.testing",
]
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def is_ours(member):
    return str(getattr(member, "__module__", "")).startswith("kprune")


def functions_of(member):
    """What users call of a class: the constructor, methods, properties."""
    for name in dir(member):
        function = inspect.getattr_static(member, name)
        if isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        if isinstance(function, property):
            function = function.fget
        is_public = not name.startswith("_") or name in ("__init__", "__call__")
        if is_public and inspect.isfunction(function) and is_ours(function):
            yield name, function


def public_functions():
    for namespace in (*PACKAGES, *NAMESPACES):
        for name, member in vars(importlib.import_module(namespace)).items():
            # Of the module itself, or of one in its folder.
            module = str(getattr(member, "__module__", ""))
            is_own = f"{module}.".startswith(f"{namespace}.")
            is_public = is_ours(member) and (is_own or namespace in PACKAGES)
            if name.startswith("_") or not is_public:
                continue
            if inspect.isfunction(member):
                yield f"{namespace}.{name}", member
            elif inspect.isclass(member):
                for method, function in functions_of(member):
                    yield f"{namespace}.{name}.{method}", function


def lacking(function):
    """The parameters without an annotation, and "return"."""
    signature = inspect.signature(function)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is inspect.Parameter.empty
        and name not in ("self", "cls")
        and parameter.kind not in VARIADIC  # they are handed on to Keras
    ]
    is_open = signature.return_annotation is inspect.Signature.empty
    if is_open and function.__name__ != "__init__":
        names.append("return")
    return names


PUBLIC = dict(public_functions())


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_annotated(name):
    assert not lacking(PUBLIC[name])


@pytest.mark.parametrize(
    "family, alias",
    [
        ("allocations", "Allocation"),
        ("criteria", "Criterion"),
        ("granularities", "Granularity"),
        ("schedules", "Schedule"),
    ],
)
def test_get_takes_and_returns_what_the_family_is_called(family, alias):
    module = getattr(kprune, family)
    signature = inspect.signature(module.get)
    member = getattr(module, alias)
    assert signature.return_annotation == member
    assert member in signature.parameters["identifier"].annotation.__args__


def test_the_package_says_that_it_is_typed():
    assert (importlib.resources.files("kprune") / "py.typed").is_file()
