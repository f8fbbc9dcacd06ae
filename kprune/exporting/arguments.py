"""Which arguments of `export` go together."""

from kprune.formats import QUANTIZATIONS


def check_tflite_only(format, quantize, sparse) -> None:
    """Raises where values or the format do not fit what is asked of it."""
    if sparse not in (True, False, "auto"):
        raise ValueError(
            "`sparse` must be True, False or 'auto'. "
            f"Received: sparse={sparse!r}"
        )
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(
            f"`quantize` must be None or one of {QUANTIZATIONS}. "
            f"Received: quantize={quantize!r}"
        )
    if format != "tflite" and (quantize is not None or sparse is True):
        raise ValueError(
            "`quantize` and `sparse` are for `.tflite` files. "
            f"Received: format={format!r} with quantize={quantize!r}, "
            f"sparse={sparse!r}"
        )


def check_int8_only(quantize, is_for_int8) -> None:
    """Raises where what is for int8 alone is given without it."""
    if quantize != "int8" and is_for_int8:
        raise ValueError(
            "`representative_data` and `integer_io` go with "
            f"`quantize='int8'`. Received: quantize={quantize!r}"
        )


def check_own_shapes(format, input_signature) -> None:
    """Raises where a file that has shapes of its own is given others."""
    if format == "keras" and input_signature is not None:
        raise ValueError(
            "A `.keras` file keeps the model's own shapes: leave out "
            f"`input_signature`. Received: {input_signature!r}"
        )
