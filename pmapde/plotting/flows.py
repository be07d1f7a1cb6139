"""Figures of flows, their ledgers, and studies of convergence."""
from __future__ import annotations

import numpy as np

from .frames import central_slice, extent_of, new_figure, save


def flow_densities(trajectory):
    """The model density ``rho_t`` at the requested times, and the source it tends to."""
    problem, count = trajectory.problem, min(len(trajectory.times), 5)
    chosen = np.unique(np.linspace(0, len(trajectory.times) - 1, count).astype(int))
    figure, axes = new_figure(len(chosen) + 1, 3.6, 3.4)
    frames = [trajectory.density(k) for k in chosen] + [problem.source_values]
    titles = [f"t = {trajectory.times[k]:.3g}" for k in chosen] + ["source"]
    top = float(np.quantile(problem.source_values, 0.998))
    for ax, frame, title in zip(axes, frames, titles):
        shown = ax.imshow(central_slice(frame), extent=extent_of(problem.grid), cmap="magma", vmin=0, vmax=top,
                          interpolation="nearest")
        ax.set(title=title, xlabel="$x_2$")
    axes[0].set_ylabel("$x_1$")
    figure.colorbar(shown, ax=axes[-1], shrink=0.7)
    figure.suptitle("model density along the flow" + (" (central slices)" if problem.ndim == 3 else ""))
    return figure


def ledger(record):
    """Divergences, regret and what the identities leave over, of a flow or a mirror descent."""
    maps = np.isfinite(record["bregman"]).any()
    figure, axes = new_figure(3 if maps else 1, 4.8, 4.0)
    along, label = (record["time"], "time") if record.kind == "flow" else (record["step"], "iteration")
    scale = "log" if record.kind == "flow" else "linear"  # a flow starts with steps that are very short
    style = {"marker": ".", "markersize": 4}

    def curve(ax, name, values, **more):
        good = (values > 0) & (along > 0)
        ax.plot(along[good], values[good], label=name, **{**style, **more})

    for name, column in (("KL(rho | mu)", "kl_reverse"), ("KL(mu | rho)", "kl_forward"), ("D(mu | rho)", "bregman")):
        curve(axes[0], name, record[column])
    axes[0].set(title="divergences", xlabel=label, yscale="log")
    if maps:
        for name, column in (("regret", "regret"), ("with KL(mu | rho)", "gap")):
            curve(axes[1], name, record[column])
        inexact = record["ratio_error"] if record.kind == "implicit" else 0.0  # the others' bounds include it
        axes[1].plot(along[1:], (record["bound"] + inexact)[1:], color="0.4", linestyle="--", label="bound")
        axes[1].set(title="regret", xlabel=label)
        for name, column in (("regret identity", "identity"), ("EVI", "evi")):
            curve(axes[2], name, np.abs(record[column]))
        axes[2].set(title="left over by the identities, relative to $D_0$", xlabel=label, yscale="log")
    for ax in axes:
        ax.set_xscale(scale)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return figure


def study(measured):
    """A convergence study: measured curves with fitted slopes, references dashed."""
    figure, axes = new_figure(1, 8.6, 4.8)
    ax, colours, last = axes[0], iter(f"C{k}" for k in range(100)), "0.4"
    for series in measured.series:
        if series.reference:
            own = any(series.label.startswith(other.label + ",") for other in measured.series)
            ax.plot(series.x, series.y, linestyle="--", linewidth=1, color=last if own else "0.4", label=series.label)
        else:
            last = next(colours)
            slope = "" if np.isnan(series.slope) else f" (slope {series.slope:.2f})"
            ax.plot(series.x, series.y, marker="o", markersize=3, color=last, label=series.label + slope)
    ax.set(title=measured.title, xlabel=measured.xlabel, ylabel=measured.ylabel)
    ax.set_xscale("log" if "x" in measured.log else "linear")
    ax.set_yscale("log" if "y" in measured.log else "linear")
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def save_flow_figures(trajectory, directory):
    """All figures of a flow."""
    paths = save(trajectory, directory, (flow_densities,))
    return paths if trajectory.ledger is None else paths + save(trajectory.ledger, directory, (ledger,))


def save_study(measured, path):
    """A study as PNG."""
    study(measured).savefig(path, dpi=130)
