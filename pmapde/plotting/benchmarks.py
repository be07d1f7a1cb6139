"""Work-precision diagrams."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

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
