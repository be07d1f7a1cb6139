"""Reliability table, rows R1 to R19: what is promised, how it is measured, what was found.

    python benchmarks/bench_reliability.py [--quick | --thorough] [--rows "R7, R8" R9 ...]

Rows that other programs of this repository measure are cited with their commands. The exit status is 1 if a row that
was measured falls short. Results in benchmarks/results/reliability.txt (not with --rows). ``--record`` writes down
the counts and errors of R18 anew: for a change that means to change them.
"""
import argparse
import sys
import time

from common import RESULTS, machine
from reliability import answers, drift, endings, files, limits, processes, ranks, statuses

CITED = {
    "R1": ("solves random pairs", "python benchmarks/bench_robustness.py"),
    "R2": ("no silent failure", "python benchmarks/bench_robustness.py (an independent verdict on every run)"),
    "R4": ("order of accuracy", "pytest tests/test_convergence.py; python benchmarks/accuracy.py"),
    "R6": ("decay at the predicted rate", "pmapde rates --only decay; pytest tests/test_flow.py"),
    "R17": ("fall-back of linear solvers", "python benchmarks/bench_linear.py; pytest tests/test_linear.py"),
    "R19": ("fair peers", "python benchmarks/bench_peers.py"),
}
ROWS = {
    "R3": ("every stop has a named reason", statuses.every_status),
    "R5": ("symmetries, identity, mass", answers.special_cases),
    "R7, R8": ("kill -9, then resume: the same bits; no checkpoint lost", endings.killed),
    "R9": ("damaged files", files.damaged),
    "R10": ("malicious files", files.malicious),
    "R11": ("bad and odd input", limits.bad_input),
    "R12": ("memory limits", limits.memory),
    "R12, disk": ("file size limits", limits.disk_full),
    "R13": ("Ctrl-C and SIGTERM", endings.interrupted),
    "R14": ("number of threads", processes.thread_counts),
    "R15": ("ranks of the distributed engine", ranks.ranks),
    "R16": ("forked children, concurrent threads", processes.forks_and_threads),
    "R18": ("work counts and errors do not drift", drift.drift),
}
"""Promise, and its measurement: a function of ``full`` that returns ``(holds, found)``; None: it could not be made."""
VERDICT = {True: "holds", False: "FALLS SHORT", None: "not run"}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials")
    parser.add_argument("--thorough", action="store_true", help="R7, R8 and R13 hundreds of times: half an hour")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW")
    parser.add_argument("--record", action="store_true", help="write down the counts and errors of R18, nothing else")
    options = parser.parse_args(arguments)
    if options.record:
        return drift.record()
    rows = {name: ("cited", promise, f"see {where}") for name, (promise, where) in CITED.items() if not options.rows}
    for name in options.rows or ROWS:
        promise, measure = ROWS[name]
        begin = time.perf_counter()
        holds, found = measure(2 if options.thorough else int(not options.quick))
        rows[name] = VERDICT[holds], promise, found.strip()
        print(f"{name} {rows[name]} {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    ordered = sorted(rows, key=lambda name: int(name.split(",")[0].removeprefix("R")))
    lines = [f"{name:10s} {rows[name][0]:12s} {rows[name][1]:56s} {rows[name][2]}" for name in ordered]
    command = " ".join(["python benchmarks/bench_reliability.py", *(sys.argv[1:] if arguments is None else arguments)])
    text = "\n".join([command, *machine(), "", *lines]) + "\n"
    print(text)
    if not options.rows:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "reliability.txt").write_text(text)
    return int(any(row[0] == VERDICT[False] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
