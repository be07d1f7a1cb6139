"""Figures of generators and posteriors: samples and where they come from."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .flows import ledger
from .frames import new_figure


def _pairs(d):
    return [(a, b) for a in range(d) for b in range(a + 1, d)]


def samples(data, generated, most=4000):
    """Data and generated samples side by side, a row for each pair of coordinates."""
    pairs = _pairs(data.shape[1])
    figure = Figure(figsize=(9.2, 4.4 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 2, squeeze=False, sharex="row", sharey="row")
    for row, (a, b) in zip(axes, pairs):
        for ax, cloud, title, colour in zip(row, (data, generated), ("data", "generated"), ("C0", "C1")):
            ax.plot(cloud[:most, a], cloud[:most, b], ".", color=colour, markersize=2, alpha=0.5, rasterized=True)
            ax.set(title=f"{title} ({min(len(cloud), most)} of {len(cloud)})", xlabel=f"$x_{a + 1}$",
                   ylabel=f"$x_{b + 1}$")
        spread = np.quantile(data[:, [a, b]], [0.001, 0.999], axis=0)
        room = 0.15 * (spread[1] - spread[0])
        row[0].set(xlim=(spread[0, 0] - room[0], spread[1, 0] + room[0]),
                   ylim=(spread[0, 1] - room[1], spread[1, 1] + room[1]))
    return figure


def reference_grid(generator, lines=41):
    """Lines of the reference's box and their images under the generator's map, over the data's coordinates; in 3D the
    plane through the middle, projected."""
    figure, axes = new_figure(2, 5.0, 4.8)
    grid = generator.solution_.problem.target_grid
    low, high = grid.lower + 0.001 * grid.lengths, grid.lower + 0.999 * grid.lengths
    for along in (0, 1):
        for position in np.linspace(low[1 - along], high[1 - along], lines):
            points = np.tile(grid.lower + grid.lengths / 2, (600, 1))
            points[:, along], points[:, 1 - along] = np.linspace(low[along], high[along], 600), position
            for ax, line in zip(axes, (points, generator.inverse_transform(points))):
                ax.plot(line[:, 0], line[:, 1], color=f"C{along}", linewidth=0.5, alpha=0.8)
    for ax, title, name in zip(axes, ("reference, whitened coordinates", "pushed through the map"), ("y", "x")):
        ax.set(title=title, xlabel=f"${name}_1$", ylabel=f"${name}_2$")
    return figure


def sample_marginals(data, generated):
    """Histograms of every coordinate, data filled, generated as a line."""
    figure, axes = new_figure(data.shape[1], 4.2, 3.4)
    for a, ax in enumerate(axes):
        edges = np.linspace(*np.quantile(data[:, a], [0, 1]), 51)
        ax.hist(data[:, a], edges, density=True, color="C0", alpha=0.4, label="data")
        ax.hist(generated[:, a], edges, density=True, color="C1", histtype="step", linewidth=1.4, label="generated")
        ax.set(title=f"marginal of $x_{a + 1}$", xlabel=f"$x_{a + 1}$", ylabel="density")
        ax.legend(fontsize=8)
    return figure


def training(generator):
    """Held-out likelihood, step sizes, and what the ratios' errors add to the regret identity."""
    figure, axes = new_figure(3, 4.6, 3.8)
    scores, record = generator.validation_scores_, generator.ledger_
    if len(scores):
        axes[0].plot(scores, ".-")
        axes[0].axvline(generator.n_iter_, color="0.4", linestyle="--", linewidth=1, label="chosen")
        axes[0].legend(fontsize=8)
    axes[0].set(title="held-out mean log-likelihood", xlabel="iteration")
    axes[1].semilogy(np.arange(1, len(generator.etas_) + 1), generator.etas_, ".-")
    axes[1].set(title=r"step sizes $\eta_k$", xlabel="iteration")
    for name, column in (("regret", "regret"), ("with KL(mu | rho)", "gap"), ("error of the ratios", "ratio_error")):
        axes[2].plot(record["step"], record[column], ".-", label=name)
    axes[2].set(title="regret against the ledger's density", xlabel="iteration")
    axes[2].legend(fontsize=8)
    for ax in axes:
        ax.grid(alpha=0.3)
    return figure


def save_generator_figures(generator, data, generated, directory):
    """All figures of a generator with its data and its samples."""
    figures = {"samples": samples(data, generated), "reference_grid": reference_grid(generator),
               "sample_marginals": sample_marginals(data, generated), "training": training(generator),
               "ledger": ledger(generator.ledger_)}
    for name, figure in figures.items():
        figure.savefig(Path(directory) / f"{name}.png", dpi=130)


def posterior_pairs(posterior, names, draws):
    """Draws of a posterior, its reference's grid pushed through the inverse map, for every pair of parameters."""
    d = len(names)
    pairs = _pairs(d)
    figure, axes = new_figure(len(pairs) + 1, 4.6, 4.2)
    shown = draws[:4000]
    for ax, (i, j) in zip(axes, pairs):
        ax.plot(shown[:, i], shown[:, j], ".", markersize=2, alpha=0.4)
        ax.plot(posterior.modes[:, i], posterior.modes[:, j], "+", color="black", markersize=9, label="mode")
        ax.set(title="draws", xlabel=names[i], ylabel=names[j])
        ax.legend(fontsize=8)
    grid = posterior.solution.problem.target_grid
    fine, coarse = (np.linspace(0.02, 0.98, count) for count in (200, 25))
    for along in (0, 1):
        for position in coarse:
            y = np.full((200, d), 0.5)
            y[:, along], y[:, 1 - along] = fine, position
            x = posterior.whitening.backward(posterior.solution.inverse_map(grid.lower + y * grid.lengths))
            axes[-1].plot(x[:, 0], x[:, 1], color="tab:orange", linewidth=0.5)
    axes[-1].set(title="the reference's grid, mapped" + ("" if d == 2 else " (a slice)"), xlabel=names[0],
                 ylabel=names[1])
    return figure


def posterior_marginals(posterior, names, draws):
    """Marginals by quadrature, over histograms of the draws."""
    figure, axes = new_figure(len(names), 4.4, 3.6)
    for axis, (ax, name) in enumerate(zip(axes, names)):
        centres, density = posterior.marginal(axis)
        ax.hist(draws[:, axis], bins=60, density=True, color="0.8", label="draws")
        ax.plot(centres, density, label="quadrature")
        low, high = np.quantile(draws[:, axis], [0.0005, 0.9995])
        ax.set(title=f"marginal of {name}", xlabel=name, xlim=(low, high))
        ax.legend(fontsize=8)
    return figure


def posterior_decay(trajectory):
    """The gap of the evidence lower bound along the flow."""
    figure, axes = new_figure(1, 5.2, 3.8)
    time, gap = trajectory.ledger["time"], trajectory.ledger["kl_reverse"]
    axes[0].semilogy(time[gap > 0], gap[gap > 0], ".-", markersize=4)
    axes[0].set(title=r"KL($\rho_t$ | posterior) along the flow", xlabel="time")
    axes[0].grid(alpha=0.3)
    return figure


def save_posterior_figures(posterior, names, draws, decay, directory):
    """All figures of a posterior."""
    paths = [Path(directory) / f"{name}.png" for name in ("posterior", "marginals", "decay")]
    for path, figure in zip(paths, (posterior_pairs(posterior, names, draws),
                                    posterior_marginals(posterior, names, draws), posterior_decay(decay))):
        figure.savefig(path, dpi=130)
    return paths
