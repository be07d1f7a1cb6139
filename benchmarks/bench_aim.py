"""Time to W2^2 within 2e-4 on the two Gaussians at 256^2: ``pmapde.solve`` against our own Sinkhorn, both tuned finely.

    python benchmarks/bench_aim.py

``pmapde benchmark`` gives every solver the same few settings on all problems, and ends with this comparison. Here both
sides are tuned for it alone: of the solver also looser algebraic tolerances, of Sinkhorn blurs, tolerances and
annealing in between, the cost without a map, and factors of over-relaxation picked by hand (*by hand*: known only after
it has been solved a few times; ``"auto"`` has to find them). The peers' Sinkhorns are further behind
(``benchmarks/results/peers/table.txt``). Processor time on one thread, the best of several in turns, the error that of
``pmapde benchmark``. The last two lines: the quickest of both sides, with and without what is picked by hand.

Results in benchmarks/results/aim.{txt,csv}. Two minutes.
"""
import argparse
import time

from common import RESULTS, report

from pmapde import peers
from pmapde.benchmark import AIM
from pmapde.entropic import sinkhorn
from pmapde.problem import TransportProblem
from pmapde.references import FAMILIES
from pmapde.solver import solve

SOLVE = [{}, {"tolerance": 1e-3}, {"extrapolate": "cost"}, {"extrapolate": "cost", "tolerance": 1e-3},
         {"extrapolate": "cost", "tolerance": 1e-4}]
SINKHORN = [{"blur": blur, "tolerance": tolerance, **more}
            for blur, tolerance in ((4.4, 1e-3), (4, 1e-3), (4, 2e-3), (4, 3e-3), (3, 2e-3))
            for more in ({}, {"annealing": 0.5}, {"overrelaxation": 1.9}, {"annealing": 0.5, "overrelaxation": 1.9})]


def solved(problem, **setting):
    solution = solve(problem, **setting)
    return solution.cost, int(solution.stats["newton_iterations"])


def annealed(problem, blur, **setting):
    plan = sinkhorn(problem, (blur * float(problem.grid.spacing.max()))**2, **setting)
    return plan.debiased_cost, plan.stats["sweeps"]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=AIM["n"], help="cells an axis; nothing is written but at 256")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    case = FAMILIES[AIM["family"]].case(options.size)
    problem = TransportProblem(case.source, case.target)
    rows = []
    for name, call, settings in (("pmapde.solve", solved, SOLVE), ("pmapde.sinkhorn", annealed, SINKHORN)):
        for setting in settings:
            cost, count = call(problem, **setting)
            rows.append({"solver": name, "setting": peers.label(setting),
                         "by hand": "yes" if "overrelaxation" in setting else "", "CPU ms": float("inf"),
                         "cost error": abs(cost / case.cost - 1), "steps or sweeps": count, "call": (call, setting)})
    for _turn in range(options.rounds):
        for row in rows:
            call, setting = row["call"]
            repeats = 4 if row["solver"] == "pmapde.solve" else 1
            for _ in range(repeats):
                begin = time.process_time()
                call(problem, **setting)
                row["CPU ms"] = min(row["CPU ms"], 1e3 * (time.process_time() - begin))
    for row in rows:
        del row["call"]
        row["within"] = "yes" if row["cost error"] <= AIM["goal"] else ""
    summary = list(compared(rows))
    title = f"W2^2 within {AIM['goal']:g}, two Gaussians to uniform, {options.size}^2, one thread"
    write = options.size == AIM["n"]
    report("aim", title, rows, write=write)
    print("\n".join(summary))
    if write:
        with open(RESULTS / "aim.txt", "a") as file:
            file.write("\n".join(["", *summary, ""]))
    return rows


def compared(rows):
    """The quickest of both sides that get there, as a line each way."""
    for hand in (False, True):
        best = {name: min((row for row in rows if row["solver"] == name and row["within"]
                           and (hand or not row["by hand"])), key=lambda row: row["CPU ms"], default=None)
                for name in ("pmapde.solve", "pmapde.sinkhorn")}
        if all(best.values()):
            ours, other = best.values()
            yield (f"{'Sinkhorn tuned by hand' if hand else 'Automatic over-relaxation'}: pmapde.solve "
                   f"{ours['CPU ms']:.3g} ms ({ours['setting']}), pmapde.sinkhorn {other['CPU ms']:.3g} ms "
                   f"({other['setting']}): {other['CPU ms'] / ours['CPU ms']:.1f} times")


if __name__ == "__main__":
    main()
