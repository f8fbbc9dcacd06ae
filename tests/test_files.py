"""Files: what is read, what is refused, and what is never replaced."""

import os
import pathlib
import re
import socket
import stat

import h5py
import keras
import numpy as np
import pytest
from files import contents
from keras import layers

import kprune
from kprune import files
from kprune.command_line import main
from kprune.exporting import checking, saved_model


def _dense():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="logits")], name="net"
    )


def _pipe(path):
    os.mkfifo(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # no path of more than 108 bytes


def _device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # /dev/null
    except PermissionError:
        pytest.skip("only root makes devices")


def _link_to_file(path):
    path.with_name("precious").write_text("precious")
    path.symlink_to("precious")


def _link_to_folder(path):
    path.with_name("folder").mkdir()
    (path.with_name("folder") / "precious").write_text("precious")
    path.symlink_to("folder")


def _link_to_saved_model(path):
    """To what would be replaced where it lies."""
    path.with_name("model").mkdir()
    (path.with_name("model") / "saved_model.pb").write_text("precious")
    path.symlink_to("model")


def _link_to_device(path):
    path.symlink_to("/dev/null")


def _dangling_link(path):
    path.symlink_to("nowhere")


def _link_to_itself(path):
    path.symlink_to(path.name)


def _folder(path):
    path.mkdir()
    (path / "precious").write_text("precious")


IN_THE_WAY = [
    (_pipe, "is a pipe"),
    (_socket, "is a socket"),
    (_device, "is a device"),
    (_link_to_file, "is a link to '.*precious'"),
    (_link_to_folder, "is a link to '.*folder'"),
    (_link_to_saved_model, "is a link to '.*model'"),
    (_link_to_device, "is a link to '/dev/null'"),
    (_dangling_link, "is a link to '.*nowhere'"),
    (_link_to_itself, "is a link to"),
    (_folder, "is a folder|holds something else"),
]


def _state(folder):
    """All that is in a folder, links and special files as what they are."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        held = None
        if path.is_symlink():
            held = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            held = path.read_bytes()
        found[path.name] = (status.st_mode, status.st_ino, held)
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["out", "out.keras", "out.tflite", "out.onnx"])
@pytest.mark.parametrize("put, words", IN_THE_WAY)
def test_export_replaces_files_only(here, put, words, name):
    put(here / name)
    before = _state(here)
    with pytest.raises(ValueError, match=words):
        kprune.export(_dense(), here / name)
    assert _state(here) == before


@pytest.mark.parametrize("put, words", IN_THE_WAY)
def test_no_command_replaces_anything_else(here, capsys, put, words):
    """Which is said before the model is read."""
    put(here / "out.keras")
    before = _state(here)
    for command in ("export", "strip", "compact"):
        for force in ([], ["--force"]):
            assert main([command, "none.keras", "out.keras", *force]) == 1
            said = capsys.readouterr().err
            assert re.search(words, said) and "--force" not in said
    assert _state(here) == before


@pytest.mark.parametrize("put", [_pipe, _link_to_file, _folder])
def test_what_appears_while_the_export_runs_stays(here, monkeypatch, put):
    path = here / "model.keras"
    difference = checking.Check.difference

    def meanwhile(self, run):
        put(path)
        return difference(self, run)

    monkeypatch.setattr(checking.Check, "difference", meanwhile)
    with pytest.raises((ValueError, OSError), match="model.keras"):
        kprune.export(_dense(), path)
    assert not stat.S_ISREG(path.lstat().st_mode)
    assert not list(here.glob(".kprune-*"))
    assert all(p.read_text() == "precious" for p in here.rglob("precious"))


def test_a_link_above_the_file_is_followed(here):
    (here / "disk").mkdir()
    (here / "link").symlink_to("disk")
    kprune.export(_dense(), here / "link" / "model.keras")
    assert (here / "disk" / "model.keras").is_file()
    assert (here / "link").is_symlink()


def test_a_saved_model_with_a_link_in_it_is_not_one_of_ours(here):
    (here / "precious").write_text("precious")
    (here / "model").mkdir()
    (here / "model" / "saved_model.pb").symlink_to(here / "precious")
    assert saved_model.others(here / "model") == ["saved_model.pb"]
    with pytest.raises(ValueError, match="holds something else"):
        kprune.export(_dense(), here / "model")
    assert (here / "precious").read_text() == "precious"


def test_a_folder_that_takes_no_files(here):
    places = [pathlib.Path("/proc")] if os.path.exists("/proc/self") else []
    if os.geteuid():
        (here / "locked").mkdir(mode=0o500)
        places.append(here / "locked")
    (here / "file").write_text("x")
    (here / "nowhere").symlink_to("missing")
    for place in [*places, here / "file", here / "nowhere"]:
        with pytest.raises(ValueError, match="cannot be written to.*another"):
            kprune.export(_dense(), place / "model.keras")
    with pytest.raises(ValueError, match="cannot be written to.*too long"):
        kprune.export(_dense(), here / ("x" * 300 + ".keras"))


def test_a_regular_file_is_replaced(here):
    (here / "model.keras").write_text("an older one")
    kprune.export(_dense(), here / "model.keras")
    assert files.load_model("model.keras").name == "net"


def test_sizes_of_files_and_folders(here):
    (here / "folder" / "deep").mkdir(parents=True)
    (here / "folder" / "a").write_bytes(b"a" * 1000)
    (here / "folder" / "deep" / "b").write_bytes(bytes(range(256)))
    raw, gzipped = files.sizes("folder")
    assert raw == 1256
    one, other = files.sizes("folder/a"), files.sizes("folder/deep/b")
    assert (one[0], other[0]) == (1000, 256)
    assert gzipped == one[1] + other[1] and one[1] < 100
    with pytest.raises(ValueError, match="There is no file 'none'"):
        files.sizes("none")


# What is no model


def _h5(path, model=None):
    (model or _dense()).save(path)


def _saved_by(version):
    """Makes a folder or file as that Keras does, as far as it is looked at."""

    def put(path):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"")
        if version == 2:
            (path / "keras_metadata.pb").write_bytes(b"")

    return put


def _weights(path):
    _dense().save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def _cut(path):
    _dense().save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def _empty_hdf5(path):
    h5py.File(path, "w").close()


def _no_json(path):
    _dense().save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = "{"


NO_MODELS = [
    ("a.keras", None, "There is no file 'a.keras'"),
    ("a.h5", None, "There is no file 'a.h5'"),
    ("a.tflite", None, "pass the `.keras` file that it was made of"),
    ("a.keras", _pipe, "is a pipe, not a file"),
    ("a", _folder, "is a folder, not a file"),
    ("a", _saved_by(3), "is a SavedModel.*pass the `.keras` file"),
    ("a", _saved_by(2), "SavedModel of Keras 2.*`model.save\\('name.h5'\\)`"),
    (
        "a.h5",
        _weights,
        "weights and no model.*`model.load_weights\\('a.h5'\\)`",
    ),
    ("a.h5", _empty_hdf5, "holds weights and no model"),
    ("a.h5", _cut, "cannot be loaded.*damaged"),
    ("a.h5", _no_json, "cannot be loaded.*damaged"),
    ("a.h5", lambda path: path.write_text("x"), "cannot be loaded.*damaged"),
    ("a.keras", _cut, "no `.keras` file, or it is damaged"),
    ("a.npy", lambda path: np.save(path, 1), "no `.keras` file"),
]


@pytest.mark.parametrize("name, put, words", NO_MODELS)
def test_what_is_no_model_is_named(here, capsys, name, put, words):
    if put:
        put(here / name)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        files.load_model(name)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        kprune.export(name, here / "out.keras")
    for command in (["graph", name], ["export", name, "out.keras"]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert name in said and len(said) < 600
    assert not (here / "out.keras").exists()


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".keras"])
def test_an_h5_file_stands_where_a_model_does(here, capsys, suffix):
    """Named as the first versions of Keras 2 did, too."""
    model, name = _dense(), f"model{suffix}"
    _h5("model.h5", model)
    pathlib.Path("model.h5").rename(name)
    before = contents(here)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    loaded = files.load_model(name)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert type(loaded) is keras.Sequential and not loaded.compiled
    cost = kprune.cost(name)
    assert (cost.parameters, cost.macs) == (15, 12)
    assert cost.bytes == pathlib.Path(name).stat().st_size
    assert contents(here) == before
    for command in (["report", name], ["cost", name], ["graph", name]):
        assert main([*command, "--json"]) == 0
    capsys.readouterr()
    assert kprune.export(name, here / "out.keras").largest_difference == 0
    assert main(["compact", name, "smaller.keras"]) == 0


@keras.saving.register_keras_serializable("mine")
class Twice(layers.Layer):
    def call(self, x):
        return 2 * x


class Unregistered(layers.Layer):
    def call(self, x):
        return 2 * x


def double(x):
    return 2 * x


def _unknown():
    """Models whose parts a process that only imports Keras does not know."""
    many = [layers.Dense(4) for _ in range(12)]
    start = keras.Input((4,))
    return {
        "mine>Twice": [
            keras.Sequential([keras.Input((4,)), *many, Twice()]),
            keras.Model(start, Twice()(start)),
            keras.Sequential([keras.Sequential([keras.Input((4,)), Twice()])]),
        ],
        "Unregistered": [
            keras.Sequential([keras.Input((4,)), *many, Unregistered()])
        ],
        "double": [
            keras.Sequential(
                [keras.Input((4,)), layers.Dense(3, activation=double)]
            )
        ],
    }


@pytest.mark.filterwarnings("ignore:You are saving a model .* not yet been")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["mine>Twice", "Unregistered", "double"])
def test_unknown_layers_are_named_in_a_few_words(here, name, suffix):
    for index, model in enumerate(_unknown()[name]):
        path = f"{index}{suffix}"
        model.save(path)
        known = dict(keras.saving.get_custom_objects())
        keras.saving.get_custom_objects().clear()
        try:
            with pytest.raises(ValueError) as caught:
                files.load_model(path)
        finally:
            keras.saving.get_custom_objects().update(known)
        said = str(caught.value)
        assert f"'{name}' is not known here" in said
        assert "Import the module" in said and len(said) < 400


def test_a_lambda_layer_is_refused_in_a_few_words(here):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: x, output_shape=(4,))]
    )
    for path in ("code.keras", "code.h5"):
        model.save(path)
        with pytest.raises(ValueError, match="has a Lambda layer") as caught:
            files.load_model(path)
        assert len(str(caught.value)) < 400
        assert files.load_model(path, safe_mode=False).layers


# Arrays


@pytest.mark.parametrize(
    "put, words",
    [
        (None, "There is no file 'data.npz'"),
        (_folder, "'data.npz' is a folder"),
        (lambda path: path.write_text("x"), "no `.npy` or `.npz` file"),
        (np.savez, "'data.npz' is empty"),
        (
            lambda path: np.savez(path, a=np.zeros(3)),
            r"arrays 'x' and 'y'.*numpy.savez.*\['a'\]",
        ),
        (
            lambda path: np.savez(path, x=np.zeros((3, 4))),
            r"arrays 'x' and 'y'.*numpy.savez.*\['x'\]",
        ),
        (
            lambda path: np.savez(path, x=np.zeros((3, 4)), y=np.zeros(2)),
            r"as many classes in `y`.*x of 3 samples.*y of shape \(2,\)",
        ),
    ],
)
def test_data_that_does_not_fit(here, capsys, put, words):
    _dense().save("net.keras")
    if put:
        put(here / "data.npz")
    command = ["report", "net.keras", "--dense", "net.keras"]
    assert main([*command, "--data", "data.npz"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Errno" not in captured.err
    assert re.search(words, captured.err), captured.err


def test_arrays_are_read_by_name(here):
    np.save("one.npy", np.arange(3))
    np.savez("two.npz", x=np.arange(3), y=np.eye(2))
    assert list(files.load_arrays("one.npy")) == [""]
    read = files.load_arrays("two.npz")
    np.testing.assert_array_equal(read["y"], np.eye(2))
    assert sorted(read) == ["x", "y"]
