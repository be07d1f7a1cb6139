"""The command line: parses, calls the library, prints."""
from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import sys
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

from . import console

OURS = {"solution.npz", "summary.json", "densities.png", "deformed_grid.png", "displacement.png", "push_forward.png",
        "interpolation.png", "residual_history.png"}
EXTRAS = {"interpolation.gif", "source.vti", "target.vti"}
FLOWS = {"trajectory.npz", "ledger.csv", "flow_densities.png", "ledger.png", "summary.json"}
PLANS = {"plan.npz", "summary.json", "densities.png", "deformed_grid.png", "displacement.png", "marginals.png",
         "marginal_errors.png"}
GENERATED = {"samples.csv", "solution.npz", "ledger.csv", "summary.json", "samples.png", "reference_grid.png",
             "sample_marginals.png", "training.png", "ledger.png"}
SOLVERS = {"auto": "Automatic", "geometric": "GeometricMultigrid", "black-box": "BlackBoxMultigrid",
           "algebraic": "AlgebraicMultigrid", "spectral": "Spectral", "direct": "Direct"}
INTEGRATORS = {"esdirk3": "ESDIRK3", "tr-bdf2": "TRBDF2", "backward-euler": "BackwardEuler"}
MODELS = ("banana", "funnel", "two_modes", "eight_schools", "rings")
POSTERIORS = {"samples.csv", "solution.npz", "decay.csv", "posterior.png", "marginals.png", "decay.png", "summary.json"}
STUDIES = ("space", "time", "decay", "contracting", "sublinear", "regret", "evi", "limit", "steps")
BENCHMARKS = ("cosine", "array", "gaussians", "contrast", "photographs", "zeros", "cosine3d", "contrast3d", "noise3d",
              "zeros3d")
BENCHMARK_FILES = {f"{name}_{n}d.png" for name in ("time", "sweeps", "epsilon") for n in (2, 3)}


class Terminated(BaseException):
    """SIGTERM, as an exception, so that half-written files are removed as they are on Ctrl-C."""


def _parser():
    parser = argparse.ArgumentParser(prog="pmapde", description="Optimal transport in 2D and 3D by the parabolic "
                                     "Monge-Ampère equation.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    solve = commands.add_parser("solve", help="transport one picture, array or example density to another",
                                description="SOURCE and TARGET: an image file (grey by luminance), a .npy or .npz file "
                                "with a 2D or 3D array, or a name of the gallery (see `pmapde info`).")
    _add_pair(solve, 0.01, "zeros need a positive floor")
    solve.add_argument("--tolerance", default="discretization", metavar="TOL",
                       help="'discretization' (default) or an RMS residual, for instance 1e-8")
    solve.add_argument("--extrapolate", choices=("cost", "map"),
                       help="Richardson extrapolation over the grids: W2, or W2 and the map, of fourth order on smooth "
                            "data")
    solve.add_argument("--solver", choices=tuple(SOLVERS), default="auto", help="linear solver")
    solve.add_argument("--scheme", choices=("auto", "monotone", "centred"), default="auto")
    solve.add_argument("--animation", action="store_true", help="write interpolation.gif too")
    solve.add_argument("--vti", action="store_true", help="write source.vti and target.vti too, for ParaView (extra "
                       "`export`)")
    solve.add_argument("--max-steps", type=int, default=300, metavar="N", help="implicit steps per grid (default 300)")
    solve.add_argument("--engine", choices=("serial", "petsc"), default="serial",
                       help="petsc: on all ranks that mpiexec started")
    solve.add_argument("--petsc-checkpoint", metavar="FILE",
                       help="with --engine petsc: a .npy file kept up to date; if it is there, go on from it")
    _add_checkpoint(solve)
    solve.set_defaults(run=_solve)

    flow = commands.add_parser("flow", help="follow the parabolic equation in true time, with its ledger",
                               description="SOURCE and TARGET as for `pmapde solve`. Writes the potentials at the "
                               "requested times, the ledger (CSV), figures and summary.json.")
    _add_pair(flow, 0.01, "zeros need a positive floor")
    flow.add_argument("--scheme", choices=("auto", "monotone", "centred"), default="auto")
    flow.add_argument("--times", default="0.001,0.01,0.1,1", metavar="T[,T...]",
                      help="times of the output, increasing (default 0.001,0.01,0.1,1)")
    flow.add_argument("--integrator", choices=tuple(INTEGRATORS), default="esdirk3")
    flow.add_argument("--step", type=float, metavar="DT", help="fixed step instead of error control")
    flow.add_argument("--tolerance", type=float, default=1e-4, metavar="TOL",
                      help="error in time relative to the distance travelled (default 1e-4)")
    flow.add_argument("--ledger", choices=("full", "densities"), default="full",
                      help="'densities' leaves out what needs maps")
    _add_checkpoint(flow)
    flow.set_defaults(run=_flow)

    resume = commands.add_parser("resume", help="go on with an interrupted solve or flow",
                                 description="FILE is what --checkpoint wrote: it holds the densities and the command. "
                                 "The results are those of a run that was never interrupted, to the last bit.")
    resume.add_argument("file", metavar="FILE")
    resume.add_argument("--out", metavar="DIR", help="another folder than the command's")
    resume.add_argument("--every", type=float, metavar="S", help="seconds between checkpoints (as before)")
    resume.add_argument("--threads", type=int, metavar="N")
    resume.set_defaults(run=_resume)

    rates = commands.add_parser("rates", help="measure and plot convergence rates, decay, regret and EVI slack",
                                description="Writes a figure (PNG) and the numbers behind it (CSV) per study, and the "
                                "fitted slopes in summary.json.")
    rates.add_argument("--out", required=True, metavar="DIR")
    rates.add_argument("--only", nargs="+", choices=STUDIES, metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    rates.add_argument("--quick", action="store_true", help="smaller grids, fewer points")
    rates.add_argument("--json", action="store_true", help="print the slopes as JSON")
    rates.set_defaults(run=_rates)

    sinkhorn = commands.add_parser("sinkhorn", help="entropic transport between the same kinds of densities",
                                   description=solve.description)
    _add_pair(sinkhorn, 0.0, "zeros are allowed")
    sinkhorn.add_argument("--epsilon", type=float, required=True, metavar="E",
                          help="temperature of the cost |x - y|^2 / 2; the blur is its root")
    sinkhorn.add_argument("--tolerance", type=float, metavar="TOL",
                          help="marginal error (L1) to reach (default 1e-6, unless --sweeps is given)")
    sinkhorn.add_argument("--sweeps", type=int, metavar="N", help="sweeps to make; with --tolerance, the most to make")
    sinkhorn.add_argument("--step", type=float, metavar="ETA", help="full step, stable below 2 epsilon")
    sinkhorn.add_argument("--overrelaxation", type=float, metavar="W",
                          help="of the half-sweeps, below 2 (default: found on the way if there is a tolerance)")
    sinkhorn.add_argument("--no-annealing", action="store_true", help="no higher temperatures before epsilon")
    sinkhorn.add_argument("--max-seconds", type=float, default=math.inf, metavar="S")
    sinkhorn.set_defaults(run=_sinkhorn)

    benchmark = commands.add_parser("benchmark", help="error against time: solver, Sinkhorn and the peers installed",
                                    description="Runs pmapde.solve, pmapde.sinkhorn and, where installed (pip install "
                                    "'pmapde[peers]'), POT, OTT-JAX and GeomLoss on problems with known answers. "
                                    "Writes work-precision diagrams, CSV tables and summary.json, and prints who wins "
                                    "where.")
    benchmark.add_argument("--out", required=True, metavar="DIR")
    benchmark.add_argument("--full", action="store_true", help="all problems, settings and grids (half an hour)")
    benchmark.add_argument("--only", nargs="+", metavar="PROBLEM", help="of " + ", ".join(BENCHMARKS))
    benchmark.add_argument("--solvers", nargs="+", metavar="NAME", help="those whose names begin so, in any case")
    benchmark.add_argument("--largest", type=int, metavar="N", help="most cells per axis in 2D (an eighth of it in 3D)")
    benchmark.add_argument("--limit", type=float, metavar="S", help="seconds for one call (default 1.5, full 5)")
    benchmark.add_argument("--threads", type=int, default=1, metavar="N", help="for every solver (default 1)")
    benchmark.add_argument("--no-figures", action="store_true")
    benchmark.add_argument("--json", action="store_true", help="print the summary as JSON instead of the table")
    benchmark.set_defaults(run=_benchmark)

    posterior = commands.add_parser("posterior", help="variational inference on a built-in model",
                                    description="Evidence, moments, marginals and draws of a posterior in two or three "
                                    "parameters, by the Brenier map to a reference.")
    posterior.add_argument("model", choices=MODELS, metavar="MODEL", help="one of " + ", ".join(MODELS))
    posterior.add_argument("--n", type=int, default=4000, metavar="N", help="draws to write (default 4000)")
    posterior.add_argument("--sequence", choices=("independent", "sobol"), default="independent")
    posterior.add_argument("--out", required=True, metavar="DIR")
    posterior.add_argument("--reference", choices=("auto", "gaussian", "uniform"), default="auto")
    posterior.add_argument("--tail", type=float, default=1e-5, metavar="P", help="mass outside the box (default 1e-5)")
    posterior.add_argument("--tolerance", type=float, metavar="TOL",
                           help="of the log evidence (default 1e-3 in 2D, 1e-2 in 3D)")
    posterior.add_argument("--seed", type=int, default=0, metavar="S")
    posterior.add_argument("--threads", type=int, metavar="N")
    posterior.add_argument("--no-figures", action="store_true")
    posterior.add_argument("--json", action="store_true")
    posterior.set_defaults(run=_posterior)

    sample = commands.add_parser("sample", help="learn a table of samples and generate more like them",
                                 description="DATA: a table of two or three columns, .csv, .npy or .npz, or the name "
                                 "of a toy (moons, ring, rings, spirals, five_gaussians, eight_gaussians, "
                                 "checkerboard, helix, mixture3d).")
    sample.add_argument("data", metavar="DATA")
    sample.add_argument("--n", type=int, required=True, metavar="N", help="samples to generate")
    sample.add_argument("--out", required=True, metavar="DIR")
    sample.add_argument("--ratio", choices=("logistic", "density", "score"), default="logistic",
                        help="how the ratio of model to data is learnt")
    sample.add_argument("--reference", choices=("gaussian", "uniform"), default="gaussian")
    sample.add_argument("--scheme", choices=("implicit", "explicit"), default="implicit")
    sample.add_argument("--cells", type=int, metavar="M", help="grid cells per axis (default 128 in 2D, 32 in 3D)")
    sample.add_argument("--tail-mass", type=float, default=0.0, metavar="P",
                        help="share of the samples that may be left outside the box (default 0)")
    sample.add_argument("--seed", type=int, default=0, metavar="S")
    sample.add_argument("--ledger", choices=("full", "densities"), default="densities",
                        help="'full' adds Bregman divergences and the regret identity")
    sample.add_argument("--toy-size", type=int, default=5000, metavar="K", help="samples of a toy (default 5000)")
    sample.add_argument("--no-figures", action="store_true")
    sample.add_argument("--json", action="store_true")
    sample.set_defaults(run=_sample)

    demo = commands.add_parser("demo", help="solve a picture, a volume and a problem with a known answer")
    demo.add_argument("--out", default="pmapde-demo", metavar="DIR")
    demo.add_argument("--quick", action="store_true", help="the same on grids a quarter or half as fine")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="versions, threads, optional parts, names of the gallery")
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=_info)
    return parser


def _add_pair(command, floor, zeros):
    """What every command on a pair of densities takes."""
    command.add_argument("source", metavar="SOURCE")
    command.add_argument("target", metavar="TARGET")
    command.add_argument("--out", required=True, metavar="DIR", help="where figures, data and summary.json go")
    command.add_argument("--size", metavar="N[xM[xK]]", help="resample both to this many cells (conservatively)")
    command.add_argument("--floor", type=float, default=floor, metavar="R",
                         help=f"raise densities to R times their maximum (default {floor:g}; {zeros})")
    command.add_argument("--boundary", choices=("no-flux", "periodic"), default="no-flux")
    command.add_argument("--threads", type=int, metavar="N")
    command.add_argument("--no-figures", action="store_true")
    command.add_argument("--keep-failed", action="store_true", help="write what there is even if it fails")
    command.add_argument("--json", action="store_true", help="print the summary as JSON instead of a table")


def _add_checkpoint(command):
    command.add_argument("--checkpoint", metavar="FILE", help="write the state of the run to FILE, for `pmapde resume "
                         "FILE` or the same command again; removed when the results are written")
    command.add_argument("--every", type=float, default=30.0, metavar="S",
                         help="seconds between checkpoints (default 30)")
    command.set_defaults(problem=None, folder=None)


def main(argv=None):
    """Run the command line; returns the exit status (0 done, 1 not solved, 2 bad input, 130 interrupted by Ctrl-C, 143
    by SIGTERM)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        import pmapde
        print(f"pmapde {pmapde.__version__}")
        return 0
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    arguments.line = shlex.join(["pmapde", *(sys.argv[1:] if argv is None else argv)])
    try:
        with _one_line_warnings(), _stoppable():
            arguments.run(arguments)
            sys.stdout.flush()
    except console.Failure as failure:
        return _complain(failure, failure.code)
    except BrokenPipeError:  # the reader, `head` for instance, has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError as error:  # of a list or a string it says nothing
        return _complain(str(error) or "out of memory: use a smaller --size", 2)
    except (ValueError, TypeError, OSError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return _complain("interrupted" + _way_on(arguments), 130)
    except Terminated:
        return _complain("terminated" + _way_on(arguments), 143)
    except Exception as error:
        if os.environ.get("PMAPDE_TRACEBACK"):
            raise
        return _complain(f"unexpected {type(error).__name__}: {error} (PMAPDE_TRACEBACK=1 shows where).", 1)
    return 0


def _way_on(arguments):
    """How to go on, if there is a checkpoint."""
    file = getattr(arguments, "checkpoint", None) or getattr(arguments, "file", None)
    return f"; `{shlex.join(['pmapde', 'resume', file])}` goes on." if file and Path(file).exists() else ""


def _complain(error, code):
    print(f"pmapde: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


@contextmanager
def _one_line_warnings():
    def show(message, *_, **__):
        print(f"pmapde: note: {message}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _stoppable():
    def stop(*_):
        raise Terminated
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: no handlers there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# commands


def _problem(arguments):
    if getattr(arguments, "problem", None) is not None:  # from a checkpoint
        return arguments.problem
    source, target = console.densities(arguments)
    import pmapde
    grid = pmapde.Grid(source.shape, periodic=arguments.boundary == "periodic")
    return pmapde.TransportProblem(source, target, grid=grid, floor=arguments.floor)


def _scheme(arguments):
    return None if arguments.scheme == "auto" else arguments.scheme


def _checkpoint(arguments):
    if arguments.checkpoint is None:
        return None
    import pmapde
    note = {"line": arguments.line, "folder": arguments.folder or os.getcwd()}
    return pmapde.Checkpoint(arguments.checkpoint, arguments.every, note)


def _resume(arguments):
    from .checkpoint import stored_run
    problem, note = stored_run(arguments.file)[2:4]
    line = shlex.split(note["line"]) if isinstance(note, dict) and "line" in note else []
    if line[1:2] not in (["solve"], ["flow"]):
        raise console.Failure(f"{arguments.file!r} was not written by `pmapde solve` or `pmapde flow`; use "
                              f"pmapde.resume in Python.")
    command = _parser().parse_args(line[1:])
    command.line, command.folder, command.problem, command.checkpoint = note["line"], note["folder"], problem, (
        arguments.file)
    command.out = arguments.out or os.path.join(note["folder"], command.out)
    command.every = command.every if arguments.every is None else arguments.every
    command.threads = arguments.threads or command.threads
    command.run(command)


def _remove_checkpoint(arguments):
    """Once the results are in their place."""
    if arguments.checkpoint is not None:
        Path(arguments.checkpoint).unlink(missing_ok=True)


def _finish(result, arguments, temporary, write):
    """Write a result, a failed one only if asked for; returns what was put in and the names of the files."""
    if not (result.success or arguments.keep_failed):
        raise console.failed(result)
    inputs = {"command": arguments.line, "source": arguments.source, "target": arguments.target,
              "floor": arguments.floor, "boundary": arguments.boundary, "versions": console.versions()}
    return inputs, write(result, temporary, inputs, not arguments.no_figures)


def _report(result, arguments, inputs, names):
    if arguments.json:
        print(console.json_text({**inputs, **result.summary()}))
    else:
        print(result)
        _print_paths(arguments.out, names)
    if not result.success:
        raise console.failed(result)


def _solve(arguments):
    tolerance = console.tolerance(arguments.tolerance)
    if arguments.engine == "petsc":
        _solve_on_ranks(arguments, tolerance)
        return
    if arguments.petsc_checkpoint:
        raise console.Failure("--petsc-checkpoint is for --engine petsc.")
    problem = _problem(arguments)
    import pmapde
    method = pmapde.PseudoTransient(scheme=_scheme(arguments), linear=getattr(pmapde, SOLVERS[arguments.solver])())
    console.check_export(arguments.vti)
    with console.output(arguments.out, OURS | EXTRAS) as temporary:
        with console.progress() as callback:
            solution = pmapde.solve(problem, method, tolerance=tolerance, extrapolate=arguments.extrapolate,
                                    threads=arguments.threads, max_steps=arguments.max_steps, callback=callback,
                                    checkpoint=_checkpoint(arguments))
        inputs, names = _finish(solution, arguments, temporary, console.write_solution)
        if arguments.animation:
            from . import plotting
            plotting.save_animation(solution, temporary / "interpolation.gif")
            names.append("interpolation.gif")
        names += console.write_vti(solution, temporary) if arguments.vti else []
    _remove_checkpoint(arguments)
    _report(solution, arguments, inputs, names)


def _solve_on_ranks(arguments, tolerance):
    """``solve`` on all ranks; rank 0 alone speaks, writes and fails: mpiexec would end it with the first to fail."""
    from .distributed import launch
    speaks = launch.launched_rank() == 0
    try:
        with nullcontext() if speaks else console.silence():
            _solve_together(arguments, tolerance)
    except (ImportError, RuntimeError) as error:
        if speaks:
            raise console.Failure(str(error)) from None
    except (console.Failure, ValueError, TypeError, MemoryError, OSError):
        if speaks:
            raise


def _solve_together(arguments, tolerance):
    from .distributed import launch, solve
    comm = launch.communicator()

    def prepared():
        for name, default in (("extrapolate", None), ("solver", "auto"), ("checkpoint", None), ("animation", False),
                              ("vti", False)):
            if getattr(arguments, name) != default:
                raise console.Failure(f"--{name} is for the serial engine (--petsc-checkpoint, PETSC_OPTIONS).")
        if comm.rank == 0:
            with console.output(arguments.out, set()):  # a place that cannot be written is found out first
                pass
        return _problem(arguments)

    problem = launch.together(comm, prepared)
    import pmapde
    checkpoint = arguments.petsc_checkpoint
    start = checkpoint if checkpoint and launch.together(comm, lambda: os.path.exists(checkpoint)) else None
    with console.progress() if comm.rank == 0 else nullcontext() as callback:
        solution = solve(problem, pmapde.PseudoTransient(scheme=_scheme(arguments)), tolerance=tolerance, start=start,
                         max_steps=arguments.max_steps, threads=arguments.threads or 1, callback=callback,
                         checkpoint=checkpoint)
    if comm.rank == 0:
        with console.output(arguments.out, OURS) as temporary:
            inputs, names = _finish(solution, arguments, temporary, console.write_solution)
        _report(solution, arguments, inputs, names)


def _flow(arguments):
    try:
        times = [float(part) for part in arguments.times.split(",")]
    except ValueError:
        raise console.Failure(f"--times must be numbers separated by commas, got {arguments.times!r}.") from None
    problem = _problem(arguments)
    import pmapde
    method = getattr(pmapde, INTEGRATORS[arguments.integrator])(step=arguments.step, scheme=_scheme(arguments))
    with console.output(arguments.out, FLOWS) as temporary:
        def describe(step):
            return f"time {step.time:.3g} of {times[-1]:g}, step {step.dt:.1e}", 1

        with console.progress(describe) as callback:
            trajectory = pmapde.flow(problem, times, method, tolerance=arguments.tolerance, ledger=arguments.ledger,
                                     threads=arguments.threads, callback=callback,
                                     checkpoint=_checkpoint(arguments))
        inputs, names = _finish(trajectory, arguments, temporary, console.write_flow)
    _remove_checkpoint(arguments)
    _report(trajectory, arguments, inputs, names)


def _rates(arguments):
    from . import plotting, rates
    chosen = arguments.only or STUDIES
    slopes = {}
    with console.output(arguments.out, set()) as temporary:
        with console.study_progress(chosen) as names:
            for name in names:
                study = rates.STUDIES[name](arguments.quick)
                slopes[name] = study.slopes()
                study.write_csv(temporary / f"{name}.csv")
                plotting.save_study(study, temporary / f"{name}.png")
        summary = {"command": arguments.line, "slopes": slopes, "versions": console.versions()}
        (temporary / "summary.json").write_text(console.json_text(summary) + "\n")
        written = sorted(path.name for path in temporary.iterdir())
    if arguments.json:
        print(console.json_text(summary))
        return
    for name, fitted in slopes.items():
        for label, slope in fitted.items():
            print(f"{name:<10} slope {slope:6.3f}  {label}")
    _print_paths(arguments.out, written)


def _sinkhorn(arguments):
    problem = _problem(arguments)
    import pmapde
    with console.output(arguments.out, PLANS) as temporary:
        with console.progress(console.describe_sweep) as callback:
            plan = pmapde.sinkhorn(problem, arguments.epsilon, arguments.sweeps, tolerance=arguments.tolerance,
                                   step=arguments.step, overrelaxation=arguments.overrelaxation,
                                   annealing=False if arguments.no_annealing else None, callback=callback,
                                   threads=arguments.threads, max_seconds=arguments.max_seconds)
        inputs, names = _finish(plan, arguments, temporary, console.write_plan)
    _report(plan, arguments, inputs, names)


def _benchmark(arguments):
    from . import benchmark, peers
    solvers = peers.solvers(not arguments.full)
    if arguments.solvers:
        prefixes = tuple(name.lower() for name in arguments.solvers)
        chosen = {name: solver for name, solver in solvers.items() if name.lower().startswith(prefixes)}
        if not chosen:
            raise console.Failure(f"--solvers: no name begins with {' or '.join(map(repr, arguments.solvers))}; there "
                                  f"are {', '.join(solvers)}.")
        solvers = chosen
    with console.output(arguments.out, BENCHMARK_FILES) as temporary:
        with console.run_progress() as progress:
            report = benchmark.run(arguments.only, solvers, quick=not arguments.full, largest=arguments.largest,
                                   limit=arguments.limit, threads=arguments.threads, progress=progress)
        report.about["command"] = arguments.line
        if not report.timed and not arguments.json:
            print(report)
            raise console.Failure("no run of the benchmark was solved in time; nothing written.", 1)
        names = console.write_benchmark(report, temporary, not arguments.no_figures)
    if arguments.json:
        print(console.json_text(report.summary()))
        return
    print(report)
    _print_paths(arguments.out, names)


def _check_draws(arguments):
    if arguments.n < 1:
        raise console.Failure(f"--n must be at least 1, got {arguments.n}.")
    if arguments.seed < 0:
        raise console.Failure(f"--seed must not be negative, got {arguments.seed}.")


def _posterior(arguments):
    _check_draws(arguments)
    import numpy as np

    from . import models
    model = models.MODELS[arguments.model]
    fitted = model.posterior(reference=arguments.reference, tail=arguments.tail, tolerance=arguments.tolerance,
                             threads=arguments.threads)
    with console.output(arguments.out, POSTERIORS) as temporary:
        if not fitted.fit().success:
            raise console.failed(fitted)
        draws = fitted.sample(arguments.n, np.random.default_rng(arguments.seed), sequence=arguments.sequence)
        inputs = {"command": arguments.line, "model": arguments.model, "about": model.about, "names": list(model.names),
                  "draws": arguments.n, "versions": console.versions()}
        decay = fitted.decay(np.geomspace(0.01, 10, 13))
        names = console.write_posterior(fitted, model, draws, decay, temporary, inputs, not arguments.no_figures)
    if arguments.json:
        print(console.json_text({**inputs, **fitted.summary()}))
        return
    print(fitted)
    _print_paths(arguments.out, names)


def _sample(arguments):
    _check_draws(arguments)
    data = console.samples(arguments.data, arguments.toy_size)
    import numpy as np

    import pmapde
    generator = pmapde.BrenierGenerator(arguments.ratio, reference=arguments.reference, scheme=arguments.scheme,
                                        cells=arguments.cells, tail_mass=arguments.tail_mass, ledger=arguments.ledger,
                                        random_state=arguments.seed)
    with console.output(arguments.out, GENERATED) as temporary:
        try:
            generator.fit(data)
        except pmapde.SolverError as error:
            raise console.failed(error.solution) from None
        generated = generator.sample(arguments.n, np.random.default_rng([arguments.seed, 1]))
        inputs = {"command": arguments.line, "data": arguments.data, "samples": len(data), "generated": arguments.n,
                  "versions": console.versions()}
        names = console.write_generator(generator, data, generated, temporary, inputs, not arguments.no_figures)
    if arguments.json:
        print(console.json_text({**inputs, **generator.summary()}))
        return
    print(f"training  {generator.n_iter_} steps, {generator.status_.name}; misplaced mass "
          f"{generator.solution_.push_forward_error:.2%}, tail mass at most {generator.tail_mass_:.2%}")
    if len(generator.validation_scores_):
        print(f"held out  mean log-likelihood {generator.validation_scores_[0]:.4f} before, "
              f"{generator.validation_scores_.max():.4f} after training")
    _print_paths(arguments.out, names)


def _print_paths(directory, names):
    for name in names:
        print(f"wrote     {Path(directory) / name}")


def _demo(arguments):
    import numpy as np

    import pmapde

    from . import exact, gallery
    n, volume_n, known_n = (64, 16, 64) if arguments.quick else (256, 32, 128)
    try:
        pair = [gallery.load(name, (n, n)) for name in ("mri", "grace_hopper")]
        title = f"an MRI slice to a photograph, {n} x {n}"
    except ValueError as error:
        print(f"pmapde: note: {error}", file=sys.stderr)
        pair = [gallery.load(name, (n, n)) for name in ("two_moons", "ring")]
        title = f"two moons to a ring, {n} x {n}"
    known = exact.separable_cosine((known_n, known_n))
    cases = [
        ("picture", title, pmapde.TransportProblem(*pair, floor=0.05)),
        ("volume", f"two balls to one, {volume_n} x {volume_n} x {volume_n}", pmapde.TransportProblem(
            *[gallery.load(name, (volume_n,) * 3) for name in ("two_balls", "ball")], floor=0.1)),
        ("known", f"a problem with a known answer, {known_n} x {known_n}", known.problem),
    ]
    for folder, title, problem in cases:
        print(f"== {title}")
        directory = Path(arguments.out) / folder if arguments.out else ""
        with console.output(directory, OURS) as temporary:
            with console.progress() as callback:
                solution = pmapde.solve(problem, callback=callback)
            if not solution.success:
                raise console.failed(solution, f"the demo's case {folder!r} was not solved")
            inputs = {"command": arguments.line, "case": title, "versions": console.versions()}
            names = console.write_solution(solution, temporary, inputs)
        print(solution)
        if folder == "known":
            print(f"error     map {known.map_error(solution.displacement):.2e} in L2(source), "
                  f"W2^2 {solution.cost / known.cost - 1:.2e} relative")
        _print_paths(directory, names)
    points = np.array([[0.25, 0.25], [0.5, 0.75]])
    print(f"the map takes {points.tolist()} to {np.round(solution.map(points), 6).tolist()}, exactly "
          f"{np.round(known.map(points), 6).tolist()}")


def _info(arguments):
    import importlib.util

    import numba

    from . import gallery
    from .density import GridDensity
    from .memory import available_memory
    from .threads import SERIAL_BELOW
    GridDensity([[1, 2], [1, 2]]).log_density([[0.5, 0.5]])  # numba chooses its threading layer at the first kernel
    report = {
        "versions": console.versions(),
        "threads": {"processors": os.cpu_count(), "numba threads": numba.get_num_threads(),
                    "threading layer": numba.threading_layer(), "serial below (cells)": SERIAL_BELOW},
        "memory available (GiB)": round(available_memory() / 2**30, 1),
        "optional parts": {name: "installed" if importlib.util.find_spec(name) else "not installed"
                           for name in ("petsc4py", "mpi4py", "ot", "ott", "geomloss")},
        "gallery, pictures": gallery.names(2), "gallery, volumes": gallery.names(3),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
