"""Figures. Arrays are shown as pictures: row = first coordinate, downwards. Volumes: central slices."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter


def _slice(field):
    """The field itself in 2D, its central slice across the last axis in 3D."""
    return field if field.ndim == 2 else field[:, :, field.shape[2] // 2]


def _extent(grid):
    (top, bottom), (left, right) = grid.box[:2]
    return left, right, bottom, top


def _picture(ax, field, grid, title, **style):
    style = {"cmap": "magma", **style}
    shown = ax.imshow(_slice(field), extent=_extent(grid), interpolation="nearest", **style)
    if grid.ndim == 3:
        title += " (central slice)"
    ax.set(title=title, xlabel="$x_2$", ylabel="$x_1$")
    ax.figure.colorbar(shown, ax=ax, shrink=0.8)
    return ax


def _figure(columns, width=4.6, height=4.2):
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def densities(solution):
    """Source and target density, normalised."""
    figure, axes = _figure(2)
    problem = solution.problem
    _picture(axes[0], problem.source_values, problem.grid, "source density")
    _picture(axes[1], problem.target_values, problem.target_grid, "target density")
    return figure


def deformed_grid(solution, lines=33):
    """Image of a regular grid of lines under the map, over the target density."""
    figure, axes = _figure(1, 6.0, 5.4)
    problem = solution.problem
    ax = _picture(axes[0], problem.target_values, problem.target_grid, "image of a regular grid", cmap="Greys_r")
    grid = problem.grid
    fine = [np.linspace(lower, upper, 257) for lower, upper in grid.box]
    coarse = [np.linspace(lower, upper, lines) for lower, upper in grid.box]
    middle = np.mean(grid.box[-1])
    for along in (0, 1):
        for position in coarse[1 - along]:
            points = np.full((257, grid.ndim), middle)
            points[:, along], points[:, 1 - along] = fine[along], position
            # not wrapped: on a torus a line that leaves the box goes on
            image = solution.transport_map.forward(np.ascontiguousarray(points.T))
            ax.plot(image[1], image[0], color="tab:orange", linewidth=0.5)
    return figure


def displacement(solution, arrows=24):
    """Length of ``T(x) - x`` and its direction."""
    figure, axes = _figure(1, 6.0, 5.4)
    grid = solution.problem.grid
    field = solution.displacement
    ax = _picture(axes[0], np.sqrt((field**2).sum(axis=0)), grid, "displacement $|T(x) - x|$", cmap="viridis")
    step = [max(1, n // arrows) for n in grid.shape[:2]]
    rows, columns = (np.arange(s // 2, n, s) for s, n in zip(step, grid.shape))
    x, y = grid.centres(0)[rows], grid.centres(1)[columns]
    first, second = (_slice(field[axis])[np.ix_(rows, columns)] for axis in (0, 1))
    ax.quiver(y, x, second, first, angles="xy", scale_units="xy", scale=1, color="white", width=0.003)
    return figure


def push_forward(solution):
    """Push-forward of the source, the target, and their difference."""
    figure, axes = _figure(3)
    target, grid = solution.problem.target_values, solution.problem.target_grid
    arrived = solution.push_forward()
    top = {"vmin": 0, "vmax": float(np.quantile(target, 0.999)) or None}
    _picture(axes[0], arrived, grid, "push-forward of the source", **top)
    _picture(axes[1], target, grid, "target density", **top)
    bound = max(float(np.quantile(np.abs(arrived - target), 0.999)), 1e-300)
    _picture(axes[2], arrived - target, grid, "difference", cmap="RdBu_r", vmin=-bound, vmax=bound)
    return figure


def residual_history(solution):
    """Residual after every implicit step, one colour a grid."""
    figure, axes = _figure(1, 6.4, 4.2)
    ax, history = axes[0], solution.history
    steps = np.arange(len(history["residual"]))
    for level in np.unique(history["level"]):
        chosen = history["level"] == level
        ax.semilogy(steps[chosen], history["residual"][chosen], "o-", markersize=4,
                    label=f"{history['cells'][chosen][0]:,} cells")
    ax.axhline(solution.tolerance, color="0.5", linestyle="--", linewidth=1, label="tolerance, finest grid")
    ax.set(title="mean-free log residual", xlabel="implicit step", ylabel="RMS")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))  # outside: curves fill the whole frame
    return figure


def interpolation(solution, times=(0.0, 0.25, 0.5, 0.75, 1.0)):
    """Displacement interpolation at several times; each frame on its own box, between the source's and the target's."""
    figure, axes = _figure(len(times), 3.4, 3.4)
    source, target = solution.problem.grid, solution.problem.target_grid
    frames = [solution.interpolate(s) for s in times]
    top = float(np.quantile(np.concatenate([frame.ravel() for frame in frames]), 0.998))
    for ax, s, frame in zip(axes, times, frames):
        extent = [(1 - s) * a + s * b for a, b in zip(_extent(source), _extent(target))]
        shown = ax.imshow(_slice(frame), extent=extent, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        ax.set(title=f"s = {s:g}", xlabel="$x_2$", xticks=extent[:2], yticks=extent[2:])
    axes[0].set_ylabel("$x_1$")
    figure.colorbar(shown, ax=axes[-1], shrink=0.7)
    figure.suptitle("displacement interpolation" + (" (central slices)" if source.ndim == 3 else ""))
    return figure


def save_animation(solution, path, frames=25, fps=12):
    """The displacement interpolation as an animated GIF, forth and back."""
    from matplotlib.animation import PillowWriter
    source, target = solution.problem.grid, solution.problem.target_grid
    times = np.linspace(0, 1, frames)
    fields = [_slice(solution.interpolate(s)) for s in times]
    top = float(np.quantile(np.concatenate([field.ravel() for field in fields]), 0.998))
    figure, axes = _figure(1, 4.8, 4.4)
    ax, extents = axes[0], [_extent(source), _extent(target)]
    shown = ax.imshow(fields[0], extent=extents[0], cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    ax.set(xlabel="$x_2$", ylabel="$x_1$", xlim=(min(e[0] for e in extents), max(e[1] for e in extents)),
           ylim=(max(e[2] for e in extents), min(e[3] for e in extents)))
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, str(path), dpi=100):
        for k in [*range(frames), *range(frames - 2, 0, -1)]:
            shown.set(data=fields[k], extent=[(1 - times[k]) * a + times[k] * b for a, b in zip(*extents)])
            ax.set_title(f"displacement interpolation, s = {times[k]:.2f}")
            writer.grab_frame()


def marginals(plan):
    """Source marginal of an entropic plan, the source, and their difference."""
    figure, axes = _figure(3)
    problem = plan.problem
    rho, mu = plan.source_marginal, problem.source_values
    top = {"vmin": 0, "vmax": float(np.quantile(mu, 0.999)) or None}
    _picture(axes[0], rho, problem.grid, "source marginal of the plan", **top)
    _picture(axes[1], mu, problem.grid, "source density", **top)
    bound = max(float(np.abs(rho - mu).max()), 1e-300)
    _picture(axes[2], rho - mu, problem.grid, "difference", cmap="RdBu_r", vmin=-bound, vmax=bound)
    return figure


def marginal_errors(plan):
    """Distances of the marginals after every sweep."""
    figure, axes = _figure(1, 6.4, 4.2)
    ax, history = axes[0], plan.history
    for name, label in (("source_error", r"$\|\rho - \mu\|_1$"), ("source_kl", r"KL$(\mu\,|\,\rho)$"),
                        ("source_reverse_kl", r"KL$(\rho\,|\,\mu)$"), ("target_kl", r"KL$(\nu\,|\,\nu')$")):
        ax.semilogy(np.maximum(history[name], 1e-17), label=label, linewidth=1)
    ax.set(title=rf"marginals of the plan, $\varepsilon$ = {plan.epsilon:.3g}", xlabel="sweep")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def flow_densities(trajectory):
    """The model density ``rho_t`` at the requested times, and the source it tends to."""
    problem, count = trajectory.problem, min(len(trajectory.times), 5)
    chosen = np.unique(np.linspace(0, len(trajectory.times) - 1, count).astype(int))
    figure, axes = _figure(len(chosen) + 1, 3.6, 3.4)
    frames = [trajectory.density(k) for k in chosen] + [problem.source_values]
    titles = [f"t = {trajectory.times[k]:.3g}" for k in chosen] + ["source"]
    top = float(np.quantile(problem.source_values, 0.998))
    for ax, frame, title in zip(axes, frames, titles):
        shown = ax.imshow(_slice(frame), extent=_extent(problem.grid), cmap="magma", vmin=0, vmax=top,
                          interpolation="nearest")
        ax.set(title=title, xlabel="$x_2$")
    axes[0].set_ylabel("$x_1$")
    figure.colorbar(shown, ax=axes[-1], shrink=0.7)
    figure.suptitle("model density along the flow" + (" (central slices)" if problem.ndim == 3 else ""))
    return figure


def ledger(record):
    """Divergences, regret and what the identities leave over, of a flow or a mirror descent."""
    maps = np.isfinite(record["bregman"]).any()
    figure, axes = _figure(3 if maps else 1, 4.8, 4.0)
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
    figure, axes = _figure(1, 8.6, 4.8)
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


SOLVERS = {"pmapde.solve": "black", "pmapde.sinkhorn": "tab:red", "OTT-JAX Sinkhorn": "tab:blue",
           "POT Sinkhorn": "tab:cyan", "POT emd": "tab:green", "GeomLoss": "tab:orange"}
"""Colours of the benchmark; others get what is left."""
MEASURES = {"map error": "map, L2($\\mu$) over W2", "cost error": "$W_2^2$, relative", "misplaced": "misplaced mass"}


def _front(rows, x, y):
    """Abscissae and best errors so far of the runs that improve on all cheaper ones."""
    best, front = np.inf, []
    for row in sorted(rows, key=lambda row: (row[x], row[y])):
        if row[y] < best:
            best = row[y]
            front.append((row[x], best))
    return np.array(front).reshape(-1, 2).T


def work_precision(rows, x="seconds"):
    """Errors of map, cost and masses against ``x``: all timed runs as dots, what is best for the price as lines.

    A column a problem; the grey band is where the answer itself is uncertain.
    """
    families = {row["family"]: row["problem"] for row in rows}
    names = list(dict.fromkeys(row["solver"] for row in rows))
    others = iter(("tab:purple", "tab:brown", "tab:pink", "tab:olive"))
    colours = {name: SOLVERS.get(name) or next(others, "0.5") for name in names}
    figure = Figure(figsize=(1 + 3.4 * len(families), 9.2), layout="constrained")
    panels = figure.subplots(len(MEASURES), len(families), sharex="col", squeeze=False)
    for column, (family, title) in zip(panels.T, families.items()):
        column[0].set_title(title, fontsize=10)
        column[-1].set_xlabel({"seconds": "seconds", "sweeps": "sweeps (pmapde.solve: cycles)"}[x])
        for ax, key in zip(column, MEASURES):
            for name in names:
                runs = [row for row in rows if row["family"] == family and row["solver"] == name
                        and row[x] > 0 and row[key] > 0]
                ours = name.startswith("pmapde")
                ax.plot([row[x] for row in runs], [row[key] for row in runs], ".", color=colours[name], alpha=0.3,
                        markersize=5, zorder=2)
                ax.plot(*_front(runs, x, key), "o-", color=colours[name], label=name, markersize=4,
                        linewidth=2.2 if ours else 1.2, zorder=4 if ours else 3)
            ax.set(xscale="log", yscale="log")
            ax.xaxis.set_minor_formatter(NullFormatter())
            uncertain = max(row.get(key.replace("error", "uncertainty"), 0.0) for row in rows
                            if row["family"] == family) if key.endswith("error") else 0.0
            if uncertain > ax.get_ylim()[0]:
                ax.set_ylim(bottom=max(ax.get_ylim()[0], uncertain / 10))  # below it nothing is known
                ax.axhspan(ax.get_ylim()[0], uncertain, color="0.9", zorder=0)
            ax.grid(alpha=0.25)
    for ax, text in zip(panels[:, 0], MEASURES.values()):
        ax.set_ylabel(text)
    handles = {text: handle for ax in panels.flat for handle, text in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(7, len(handles)), frameon=False)
    figure.suptitle(f"Error against {x}. Dots are runs (grids, temperatures, tolerances),\n"
                    "lines the best for the price. Down and to the left is better.", fontsize=10)
    return figure


def blurs(rows):
    """Errors of the debiased Sinkhorns against the blur, per problem: tightest tolerance, two finest grids."""
    families = {row["family"]: row["problem"] for row in rows if row["blur"] > 0}
    figure = Figure(figsize=(1 + 3.4 * len(families), 9.2), layout="constrained")
    panels = figure.subplots(len(MEASURES), len(families), sharex="col", squeeze=False)
    for column, (family, title) in zip(panels.T, families.items()):
        here = [row for row in rows if row["family"] == family and row["blur"] > 0
                and not row["setting"].endswith(("raw", "extrapolate cost"))]
        solvers = list(dict.fromkeys(row["solver"] for row in here))
        grids = sorted({row["cells"] for row in here})
        for ax, key in zip(column, MEASURES):
            for name in solvers:
                for cells, shade in zip(grids[-2:], (0.45, 1.0)):
                    best = {}
                    for row in here:
                        if row["solver"] == name and row["cells"] == cells and row[key] > 0:
                            best[row["blur"]] = row[key]  # tolerances are in falling order
                    if best:
                        grid = next(row["grid"] for row in here if row["cells"] == cells)
                        ax.plot(*zip(*sorted(best.items())), "o-" if name == solvers[0] else "s--",
                                color=SOLVERS.get(name, "0.5"), alpha=shade, markersize=4, label=f"{name}, {grid}")
            ticks = sorted({row["blur"] for row in here})
            ax.set(xscale="log", yscale="log", xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.grid(alpha=0.25)
        column[0].set_title(title, fontsize=10)
        column[0].legend(fontsize=6)
        column[-1].set_xlabel("blur, cells")
    for ax, text in zip(panels[:, 0], MEASURES.values()):
        ax.set_ylabel(text)
    figure.suptitle("Error of debiased Sinkhorn against the blur sqrt(epsilon)", fontsize=10)
    return figure


def save_benchmark(rows, directory):
    """Work-precision diagrams of the timed runs of a benchmark, in 2D and 3D."""
    for ndim in sorted({row["ndim"] for row in rows}):
        here = [row for row in rows if row["ndim"] == ndim]
        for name, figure in (("time", work_precision(here)), ("sweeps", work_precision(here, "sweeps")),
                             ("epsilon", blurs(here) if any(row["blur"] > 0 for row in here) else None)):
            if figure:
                figure.savefig(Path(directory) / f"{name}_{ndim}d.png", dpi=110)


def save_figures(solution, directory):
    """All figures of a solution as PNG into ``directory``; returns their paths."""
    return _save(solution, directory,
                 (densities, deformed_grid, displacement, push_forward, interpolation, residual_history))


def save_plan_figures(plan, directory):
    """All figures of an entropic plan."""
    return _save(plan, directory, (densities, deformed_grid, displacement, marginals, marginal_errors))


def _save(result, directory, figures):
    paths = []
    for draw in figures:
        paths.append(Path(directory) / f"{draw.__name__}.png")
        draw(result).savefig(paths[-1], dpi=130)
    return paths


def save_flow_figures(trajectory, directory):
    """All figures of a flow."""
    paths = _save(trajectory, directory, (flow_densities,))
    return paths if trajectory.ledger is None else paths + _save(trajectory.ledger, directory, (ledger,))


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
    figure, axes = _figure(2, 5.0, 4.8)
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
    figure, axes = _figure(data.shape[1], 4.2, 3.4)
    for a, ax in enumerate(axes):
        edges = np.linspace(*np.quantile(data[:, a], [0, 1]), 51)
        ax.hist(data[:, a], edges, density=True, color="C0", alpha=0.4, label="data")
        ax.hist(generated[:, a], edges, density=True, color="C1", histtype="step", linewidth=1.4, label="generated")
        ax.set(title=f"marginal of $x_{a + 1}$", xlabel=f"$x_{a + 1}$", ylabel="density")
        ax.legend(fontsize=8)
    return figure


def training(generator):
    """Held-out likelihood, step sizes, and what the ratios' errors add to the regret identity."""
    figure, axes = _figure(3, 4.6, 3.8)
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


def save_study(measured, path):
    """A study as PNG."""
    study(measured).savefig(path, dpi=130)


def posterior_pairs(posterior, names, draws):
    """Draws of a posterior, its reference's grid pushed through the inverse map, for every pair of parameters."""
    d = len(names)
    pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
    figure, axes = _figure(len(pairs) + 1, 4.6, 4.2)
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
    figure, axes = _figure(len(names), 4.4, 3.6)
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
    figure, axes = _figure(1, 5.2, 3.8)
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
