"""Pruning without training: what stays is fitted to the dense model."""

from kprune.reconstruction.repairing import recalibrate, reconstruct
from kprune.reconstruction.results import LayerRepair, Reconstruction

__all__ = ["LayerRepair", "Reconstruction", "recalibrate", "reconstruct"]
