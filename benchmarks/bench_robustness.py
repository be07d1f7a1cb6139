"""Success table: seeded random pairs of ten kinds, judged by an independent verdict. Nobody picked them.

    python benchmarks/bench_robustness.py [--quick] [--shapes 32x32 64x64 16x16x16] [--contrasts 10 1e3 1e6] [--pairs N]

Both sides rough and of the same kind (``random_fields.py``), default settings but for a limit of time. A run is

* sound: ``success``, and the verdict agrees (``verdict.py``: at most 2 % of the mass in the wrong block of 8 cells per
  axis of the unsmoothed target, no folded point, nothing outside the target); in brackets how many of these maps are
  those of entropic plans, whose blur is a cell at most, where the equation's misplaced mass;
* an honest failure: any other status, which is counted by name;
* a silent failure: ``success`` that the verdict denies. There must be none; the exit status is 1 if there is one.

``--cost``: the cost at 32^2 or ``--size`` (contrast up to 50) against the exact linear programme between the pixel
histograms, extrapolated over subdivided pixels since that of plain pixels is too large by about h^2/3 (needs POT).
``--zeros``: densities with holes, bars and separate discs at ``--size``, on either side or both. ``--plain``: without
corrections and fall-backs. ``--schemes``: centred against monotone in 3D. ``--blur``: maps of entropic plans by their
blur, on pairs that the equation does not solve and on a smooth one. Results: benchmarks/results/robustness*.txt.
"""
import argparse
import sys
import time
import warnings
from collections import Counter, defaultdict

import numpy as np
from common import RESULTS, machine
from random_fields import KINDS, pair
from verdict import judge

import pmapde

QUICK = {"shapes": ["32x32", "16x16x16"], "contrasts": [10.0, 1e3, 1e6], "pairs": 1}
PAIRS = {(32, 32): 30, (64, 64): 30, (128, 128): 10, (256, 256): 3, (512, 512): 1, (16, 16, 16): 30, (32, 32, 32): 3,
         (64, 64, 64): 1}
SECONDS = 20.0


def shape_of(text):
    return tuple(int(n) for n in text.split("x"))


def run(kind, shape, contrast, seed, method=None, limit=SECONDS):
    """One pair: a row with the outcome and the verdict's figures."""
    row = judged(*pair(kind, shape, contrast, seed), method, limit)
    return {"kind": kind, "shape": "x".join(map(str, shape)), "contrast": contrast, "seed": seed} | row


def judged(source, target, method, limit):
    """A solve, and what the verdict says of it."""
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pmapde.StencilWarning)
        solution = pmapde.solve(pmapde.TransportProblem(source, target), method, max_seconds=limit)
    seconds = time.perf_counter() - begin
    verdict = judge(solution, source, target)
    outcome = ("sound" if verdict.sound else "SILENT") if solution.success else solution.status.name
    return {"outcome": outcome, "misplaced": verdict.misplaced, "shifted": verdict.shifted, "crooked": verdict.crooked,
            "straightened": solution.straightened_mass, "entropic": solution.blur > 0, "parts": solution.subdivision,
            "newton": solution.stats["newton_iterations"], "seconds": seconds}


def table(rows, across):
    """Sound of all by kind, one column per contrast, the failures by status, and how many maps are entropic plans'."""
    columns = list(dict.fromkeys(across(row) for row in rows))
    lines = ["kind".ljust(20) + "".join(name.rjust(32) for name in columns)]
    groups, plans = defaultdict(list), Counter()
    for row in rows:
        for kind in (row["kind"], "all"):
            groups[kind, across(row)].append(row["outcome"])
            plans[kind, across(row)] += row["outcome"] == "sound" and row["entropic"]
    for kind in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        cells = []
        for name in columns:
            counts = Counter(groups[kind, name])
            bad = ", ".join(f"{count} {SHORT.get(status, status)}" for status, count in counts.items()
                            if status != "sound")
            cells.append(f"{counts['sound']}/{sum(counts.values())}" + (f" ({bad})" if bad and kind != "all" else "")
                         + (f" [{plans[kind, name]}]" if plans[kind, name] else ""))
        lines.append(kind.ljust(20) + "".join(cell.rjust(32) for cell in cells))
    return lines


SHORT = {"MASS_MISPLACED": "misplaced", "MAX_SECONDS": "time", "FOLDED": "folded", "NEWTON_STALLED": "stalled",
         "STEP_TOO_SMALL": "stalled", "STAGNATED": "stagnated", "MAX_STEPS": "steps"}


def report(name, title, rows, lines, write):
    silent = [row for row in rows if row["outcome"] == "SILENT"]
    shifted = np.array([row["shifted"] for row in rows if row["outcome"] == "sound"] or [np.nan])
    text = "\n".join([title, *machine(), "", *lines, "",
                      f"{len(rows)} runs, {sum(row['outcome'] == 'sound' for row in rows)} sound, {len(silent)} silent "
                      f"failures; median of the misplaced mass of the sound ones "
                      f"{np.median([r['misplaced'] for r in rows if r['outcome'] == 'sound'] or [np.nan]):.2%}, over "
                      f"blocks shifted by half of their size {np.median(shifted):.2%} (above 2 % in "
                      f"{(shifted > 0.02).sum()}); cells subdivided in {sum(row['parts'] > 1 for row in rows)}; [n]: n "
                      f"maps of entropic plans, "
                      f"{sum(row['outcome'] == 'sound' and row['entropic'] for row in rows)} in all",
                      *(f"SILENT: {row}" for row in silent)]) + "\n"
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.txt").write_text(text)
    return len(silent)


def compiled(ndim, method=None):
    """Compiles most of what is needed, off the clock."""
    for kind in ("shapes", "log-Gaussian"):
        run(kind, (16,) * ndim, 1e3, 0, method, np.inf)


def success_table(shapes, contrasts, kinds, pairs, threads, write, method=None, limit=SECONDS, name="robustness"):
    for shape in shapes:
        compiled(len(shape), method)
    begin, lines, rows = time.perf_counter(), [], []
    for shape in shapes:
        done = []
        for contrast in contrasts:
            for kind in kinds:
                for seed in range(pairs or PAIRS.get(shape, 3)):
                    done.append(run(kind, shape, contrast, seed, method, limit))
                    if done[-1]["outcome"] != "sound":
                        print(f"  {done[-1]}", file=sys.stderr, flush=True)
        rows += done
        median = np.median([row["seconds"] for row in done])
        lines += ["", f"{'x'.join(map(str, shape))}, median {median:.2f} s, "
                  f"longest {max(row['seconds'] for row in done):.1f} s"]
        lines += table(done, lambda row: f"contrast {row['contrast']:g}")
        print("\n".join(lines[-len(kinds) - 3:]), flush=True)
        title = (f"Sound solutions of all, by kind and contrast; at most {limit:.0f} s each, {threads} numba "
                 f"thread(s), {time.perf_counter() - begin:.0f} s in all")
        if write:  # as far as it got
            silent = report(name, title, rows, lines, True)
    return silent if write else report(name, title, rows, lines, False)


FAR = 0.5
"""Relative difference of the costs between whole and half pixels from which thirds are asked for (two minutes each)."""


def exact_cost(source, target, parts):
    """Cost of the linear programme between the pixel histograms on pixels cut into ``parts`` per axis."""
    import ot
    cut = [np.kron(values, np.ones((parts,) * values.ndim)) for values in (source, target)]
    weights = [values.ravel() / values.sum() for values in cut]
    n = cut[0].shape[0]
    centres = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return ot.emd2(*weights, ot.dist(centres, centres), numItermax=10**7)


def extrapolated_cost(source, target):
    """Second order in the size of the pixels: whole ones and halves, or halves and thirds where the first two differ
    much: what moves there moves by less than a pixel."""
    whole, half = (exact_cost(source, target, parts) for parts in (1, 2))
    if whole < (1 + FAR) * half:
        return (4 * half - whole) / 3
    return (9 * exact_cost(source, target, 3) - 4 * half) / 5


def cost_table(pairs, write, size):
    lines, ratios = ["kind                contrast  W2^2 LP       cost        of the map  dual"], []
    for contrast in (10.0, 50.0):
        for kind in KINDS:
            for seed in range(pairs):
                source, target = pair(kind, (size, size), contrast, seed)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", pmapde.StencilWarning)
                    solution = pmapde.solve(pmapde.TransportProblem(source, target))
                wanted = extrapolated_cost(source, target)
                moved = ((solution.displacement**2).sum(axis=0) * source).sum() / source.sum()
                found = np.array([solution.cost, moved, solution.dual_cost]) / wanted - 1
                if solution.success:
                    ratios.append(np.abs(found))
                lines.append(f"{kind:20s}{contrast:8g}  {wanted:.4e}    {found[0]:+8.2%} {solution.stats['cost']:4s} "
                             f"{found[1]:+8.2%}  {found[2]:+8.2%}  "
                             f"{solution.status.name if solution.blur or not solution.success else ''}".rstrip())
                print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", *(f"{len(ratios)} sound, {name}: median {np.median(column):.2%}, worst {max(column):.2%} off"
                    for name, column in zip(("cost", "of the map", "dual"), np.transpose(ratios)))]
    text = "\n".join([f"Cost at {size}^2 against the extrapolated linear programme", *machine(), "", *lines]) + "\n"
    print(text)
    if write:
        (RESULTS / "robustness_cost.txt").write_text(text)


BLURRED = (("shapes", (128, 128), 1e3, 17, 1), ("log-Gaussian", (64, 64), 1e6, 1, 4),
           ("shapes", (32, 32, 32), 1e3, 2, 2))
"""Kind, shape, contrast, seed, and parts of the cells."""


def blur_table(write):
    """Maps of entropic plans by their blur in cells: how often they fold, what they misplace before and after."""
    from pmapde import barycentric, exact
    from pmapde.conservation import repeated
    lines = ["problem                          blur   sweeps  seconds   folded  misplaced, folds straightened"]
    known = exact.manufactured((128, 128))
    problems = [(f"{kind} {'x'.join(map(str, shape))} {contrast:g}", pmapde.TransportProblem(
        *pair(kind, shape, contrast, seed)), parts) for kind, shape, contrast, seed, parts in BLURRED]
    for name, problem, parts in [*problems, ("smooth 128x128", known.problem, 1)]:
        failed = pmapde.solve(problem, pmapde.PseudoTransient(conserve=False), max_steps=1)
        source = repeated(problem.source_masses, parts)
        for blur in (0.35, 0.5, 0.7, 1.0, 1.4, 2.0):
            barycentric.BLUR[problem.ndim] = blur
            for _ in range(2):
                begin = time.perf_counter()
                found = barycentric.barycentric(problem, failed, parts)
                seconds = time.perf_counter() - begin
            plan = found.stats["sinkhorn"]
            lines.append(f"{name:30s} {blur:6.2f} {plan['sweeps']:8d} {seconds:8.2f} {found.straightened_mass:8.2%} "
                         f"{found.push_forward_error:8.2%}")
            if problem is known.problem:
                lines[-1] += f"      map error {known.map_error(found.displacement) * len(source):.3f} cells"
            print(lines[-1], file=sys.stderr, flush=True)
    error = known.map_error(pmapde.solve(known.problem).displacement) * known.problem.grid.shape[0]
    lines += ["", f"map error of the equation on the smooth problem: {error:.4f} cells"]
    text = "\n".join(["Maps of entropic plans by their blur in cells", *machine(), "", *lines]) + "\n"
    print(text)
    if write:
        (RESULTS / "robustness_blur.txt").write_text(text)


def scheme_table(pairs, write):
    rows, lines = [], []
    for scheme in ("centred", "monotone"):
        compiled(3, pmapde.PseudoTransient(scheme=scheme))
        done = [run(kind, (16, 16, 16), contrast, seed, pmapde.PseudoTransient(scheme=scheme))
                for contrast in (10.0, 1e3) for kind in KINDS for seed in range(pairs)]
        rows += done
        sound = [row for row in done if row["outcome"] == "sound"]
        lines += ["", f"{scheme}: {sum(row['newton'] for row in done)} Newton steps, "
                  f"{sum(row['seconds'] for row in done):.0f} s, misplaced (median of the sound) "
                  f"{np.median([row['misplaced'] for row in sound]):.2%}, straightened in "
                  f"{sum(row['straightened'] > 0 for row in done)}"]
        lines += table(done, lambda row: f"contrast {row['contrast']:g}")
    from pmapde import exact
    lines += ["", "smooth problem with a known map:  grid   scheme    map error   seconds (second call)"]
    for n in (16, 32, 64):
        problem = exact.manufactured((n,) * 3)
        points = problem.problem.grid.cell_centres().reshape(3, -1).T
        for scheme in ("centred", "monotone"):
            for _ in range(2):
                begin = time.perf_counter()
                solution = pmapde.solve(problem.problem, pmapde.PseudoTransient(scheme=scheme))
                seconds = time.perf_counter() - begin
            error = np.sqrt(((solution.map(points) - problem.map(points)) ** 2).sum(axis=1).mean())
            lines.append(f"{n:>37d}^3   {scheme:9s} {error:.2e}    {seconds:.2f}")
    return report("robustness_3d", "Centred and monotone operator in 3D, 16^3", rows, lines, write)


def with_gaps(n):
    """Densities that are one on a part of the box and zero on the rest, and one that is one everywhere."""
    x, y = pmapde.Grid((n, n)).cell_centres()
    parts = {"hole": np.hypot(x - 0.5, y - 0.5) > 0.25, "bars": (6 * x) % 1 < 0.5,
             "discs": (np.hypot(x - 0.27, y - 0.3) < 0.18) | (np.hypot(x - 0.72, y - 0.7) < 0.2)}
    return {"uniform": np.ones((n, n))} | {name: part.astype(float) for name, part in parts.items()}


def gap_table(size, limit, threads, write):
    compiled(2)
    densities, rows = with_gaps(size), []
    lines = ["source    target    outcome           misplaced  parts  seconds"]
    for first, source in densities.items():
        for second, target in densities.items():
            if first != second:
                row = judged(source, target, None, limit)
                rows.append(row | {"kind": f"{first} to {second}", "shape": f"{size}x{size}"})
                lines.append(f"{first:9s} {second:9s} {row['outcome']:17s} {row['misplaced']:9.2%} {row['parts']:6d} "
                             f"{row['seconds']:8.1f}")
                print(lines[-1], file=sys.stderr, flush=True)
    title = f"Zeros on either side, {size}^2; at most {limit:.0f} s each, {threads} numba thread(s)"
    return report("robustness_zeros", title, rows, lines, write)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids, one pair of a kind: a minute or two")
    parser.add_argument("--shapes", nargs="+", default=["x".join(map(str, shape)) for shape in PAIRS])
    parser.add_argument("--contrasts", nargs="+", type=float, default=[10.0, 1e3, 1e6])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--pairs", type=int, help="pairs of each kind (default: 30 on small grids, 1 on the largest)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of a run")
    parser.add_argument("--name", default="robustness", help="of the file of results")
    parser.add_argument("--equation", action="store_true", help="without entropic plans: entropic=False")
    parser.add_argument("--plain", action="store_true", help="the equation alone, conserve=False; nothing is written")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--size", type=int, default=32,
                        help="cells per axis for --cost (a minute each at 32, seconds at 16)")
    parser.add_argument("--schemes", action="store_true")
    parser.add_argument("--blur", action="store_true")
    parser.add_argument("--zeros", action="store_true", help="densities with gaps at --size")
    options = parser.parse_args(arguments)
    if options.quick:
        options.shapes, options.contrasts, options.pairs = QUICK["shapes"], QUICK["contrasts"], QUICK["pairs"]
    from numba import get_num_threads
    write = not options.quick and not options.plain
    method = (pmapde.PseudoTransient(conserve=False) if options.plain
              else pmapde.PseudoTransient(entropic=False) if options.equation else None)
    if options.cost:
        return cost_table(options.pairs or 2, write, options.size)
    if options.schemes:
        return int(scheme_table(options.pairs or 3, write) > 0)
    if options.blur:
        return blur_table(write)
    if options.zeros:
        return int(gap_table(options.size, options.seconds, get_num_threads(), write) > 0)
    return int(success_table([shape_of(text) for text in options.shapes], options.contrasts, options.kinds,
                             options.pairs, get_num_threads(), write, method, options.seconds, options.name) > 0)


if __name__ == "__main__":
    sys.exit(main())
