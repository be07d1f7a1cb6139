"""What all figures share."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def central_slice(field):
    """The field itself in 2D, its central slice across the last axis in 3D."""
    return field if field.ndim == 2 else field[:, :, field.shape[2] // 2]


def extent_of(grid):
    """Of a picture of the grid's first two axes, as matplotlib wants it."""
    (top, bottom), (left, right) = grid.box[:2]
    return left, right, bottom, top


def picture(ax, field, grid, title, **style):
    """A field as a picture with its colour bar."""
    style = {"cmap": "magma", **style}
    shown = ax.imshow(central_slice(field), extent=extent_of(grid), interpolation="nearest", **style)
    if grid.ndim == 3:
        title += " (central slice)"
    ax.set(title=title, xlabel="$x_2$", ylabel="$x_1$")
    ax.figure.colorbar(shown, ax=ax, shrink=0.8)
    return ax


def new_figure(columns, width=4.6, height=4.2):
    """A figure and its axes, side by side."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def save(result, directory, figures):
    """Draw functions of a result, each saved under its own name; returns the paths."""
    paths = []
    for draw in figures:
        paths.append(Path(directory) / f"{draw.__name__}.png")
        draw(result).savefig(paths[-1], dpi=130)
    return paths
