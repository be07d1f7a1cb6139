"""Figures of solutions and of entropic plans."""
from __future__ import annotations

import numpy as np

from .frames import central_slice, extent_of, new_figure, picture, save


def densities(solution):
    """Source and target density, normalised."""
    figure, axes = new_figure(2)
    problem = solution.problem
    picture(axes[0], problem.source_values, problem.grid, "source density")
    picture(axes[1], problem.target_values, problem.target_grid, "target density")
    return figure


def deformed_grid(solution, lines=33):
    """Image of a regular grid of lines under the map, over the target density."""
    figure, axes = new_figure(1, 6.0, 5.4)
    problem = solution.problem
    ax = picture(axes[0], problem.target_values, problem.target_grid, "image of a regular grid", cmap="Greys_r")
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
    figure, axes = new_figure(1, 6.0, 5.4)
    grid = solution.problem.grid
    field = solution.displacement
    ax = picture(axes[0], np.sqrt((field**2).sum(axis=0)), grid, "displacement $|T(x) - x|$", cmap="viridis")
    step = [max(1, n // arrows) for n in grid.shape[:2]]
    rows, columns = (np.arange(s // 2, n, s) for s, n in zip(step, grid.shape))
    x, y = grid.centres(0)[rows], grid.centres(1)[columns]
    first, second = (central_slice(field[axis])[np.ix_(rows, columns)] for axis in (0, 1))
    ax.quiver(y, x, second, first, angles="xy", scale_units="xy", scale=1, color="white", width=0.003)
    return figure


def push_forward(solution):
    """Push-forward of the source, the target, and their difference."""
    figure, axes = new_figure(3)
    target, grid = solution.problem.target_values, solution.problem.target_grid
    arrived = solution.push_forward()
    top = {"vmin": 0, "vmax": float(np.quantile(target, 0.999)) or None}
    picture(axes[0], arrived, grid, "push-forward of the source", **top)
    picture(axes[1], target, grid, "target density", **top)
    bound = max(float(np.quantile(np.abs(arrived - target), 0.999)), 1e-300)
    picture(axes[2], arrived - target, grid, "difference", cmap="RdBu_r", vmin=-bound, vmax=bound)
    return figure


def residual_history(solution):
    """Residual after every implicit step, one colour a grid."""
    figure, axes = new_figure(1, 6.4, 4.2)
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
    figure, axes = new_figure(len(times), 3.4, 3.4)
    source, target = solution.problem.grid, solution.problem.target_grid
    frames = [solution.interpolate(s) for s in times]
    top = float(np.quantile(np.concatenate([frame.ravel() for frame in frames]), 0.998))
    for ax, s, frame in zip(axes, times, frames):
        extent = [(1 - s) * a + s * b for a, b in zip(extent_of(source), extent_of(target))]
        shown = ax.imshow(central_slice(frame), extent=extent, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
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
    fields = [central_slice(solution.interpolate(s)) for s in times]
    top = float(np.quantile(np.concatenate([field.ravel() for field in fields]), 0.998))
    figure, axes = new_figure(1, 4.8, 4.4)
    ax, extents = axes[0], [extent_of(source), extent_of(target)]
    shown = ax.imshow(fields[0], extent=extents[0], cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    ax.set(xlabel="$x_2$", ylabel="$x_1$", xlim=(min(e[0] for e in extents), max(e[1] for e in extents)),
           ylim=(max(e[2] for e in extents), min(e[3] for e in extents)))
    ax.set_title("displacement interpolation, s = 0.00")
    figure.canvas.draw()
    figure.set_layout_engine("none")  # it would be laid out anew for every frame, and tremble
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, str(path), dpi=100):
        for k in [*range(frames), *range(frames - 2, 0, -1)]:
            shown.set(data=fields[k], extent=[(1 - times[k]) * a + times[k] * b for a, b in zip(*extents)])
            ax.set_title(f"displacement interpolation, s = {times[k]:.2f}")
            writer.grab_frame()


def marginals(plan):
    """Source marginal of an entropic plan, the source, and their difference."""
    figure, axes = new_figure(3)
    problem = plan.problem
    rho, mu = plan.source_marginal, problem.source_values
    top = {"vmin": 0, "vmax": float(np.quantile(mu, 0.999)) or None}
    picture(axes[0], rho, problem.grid, "source marginal of the plan", **top)
    picture(axes[1], mu, problem.grid, "source density", **top)
    bound = max(float(np.abs(rho - mu).max()), 1e-300)
    picture(axes[2], rho - mu, problem.grid, "difference", cmap="RdBu_r", vmin=-bound, vmax=bound)
    return figure


def marginal_errors(plan):
    """Distances of the marginals after every sweep."""
    figure, axes = new_figure(1, 6.4, 4.2)
    ax, history = axes[0], plan.history
    for name, label in (("source_error", r"$\|\rho - \mu\|_1$"), ("source_kl", r"KL$(\mu\,|\,\rho)$"),
                        ("source_reverse_kl", r"KL$(\rho\,|\,\mu)$"), ("target_kl", r"KL$(\nu\,|\,\nu')$")):
        ax.semilogy(np.maximum(history[name], 1e-17), label=label, linewidth=1)
    ax.set(title=rf"marginals of the plan, $\varepsilon$ = {plan.epsilon:.3g}", xlabel="sweep")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def save_figures(solution, directory):
    """All figures of a solution as PNG into ``directory``; returns their paths."""
    return save(solution, directory,
                 (densities, deformed_grid, displacement, push_forward, interpolation, residual_history))


def save_plan_figures(plan, directory):
    """All figures of an entropic plan."""
    return save(plan, directory, (densities, deformed_grid, displacement, marginals, marginal_errors))
