"""The commands: parsed arguments in, files and a report out."""
from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

from . import console
from .options import INTEGRATORS, SOLVERS, STUDIES, build_parser

OURS = {"solution.npz", "summary.json", "densities.png", "deformed_grid.png", "displacement.png", "push_forward.png",
        "interpolation.png", "residual_history.png"}
EXTRAS = {"interpolation.gif", "source.vti", "target.vti"}
FLOWS = {"trajectory.npz", "ledger.csv", "flow_densities.png", "ledger.png", "summary.json"}
PLANS = {"plan.npz", "summary.json", "densities.png", "deformed_grid.png", "displacement.png", "marginals.png",
         "marginal_errors.png"}
GENERATED = {"samples.csv", "solution.npz", "ledger.csv", "summary.json", "samples.png", "reference_grid.png",
             "sample_marginals.png", "training.png", "ledger.png"}
POSTERIORS = {"samples.csv", "solution.npz", "decay.csv", "posterior.png", "marginals.png", "decay.png", "summary.json"}
BENCHMARK_FILES = {f"{name}_{n}d.png" for name in ("time", "sweeps", "epsilon") for n in (2, 3)}


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
    command = build_parser().parse_args(line[1:])
    command.line, command.folder, command.problem, command.checkpoint = note["line"], note["folder"], problem, (
        arguments.file)
    command.out = arguments.out or os.path.join(note["folder"], command.out)
    command.every = command.every if arguments.every is None else arguments.every
    command.threads = command.threads if arguments.threads is None else arguments.threads
    COMMANDS[command.command](command)


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
    start = checkpoint if checkpoint and any(comm.allgather(os.path.exists(checkpoint))) else None
    threads = 1 if arguments.threads is None else arguments.threads
    with console.progress() if comm.rank == 0 else nullcontext() as callback:
        solution = solve(problem, pmapde.PseudoTransient(scheme=_scheme(arguments)), tolerance=tolerance, start=start,
                         max_steps=arguments.max_steps, threads=threads, callback=callback,
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
                             max_seconds=arguments.max_seconds, threads=arguments.threads)
    with console.output(arguments.out, POSTERIORS) as temporary:
        with console.working("fitting"):
            fitted.fit()
        if not fitted.success:
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
                                        max_seconds=arguments.max_seconds, random_state=arguments.seed)
    with console.output(arguments.out, GENERATED) as temporary:
        try:
            with console.working("learning"):
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


COMMANDS = {"solve": _solve, "flow": _flow, "resume": _resume, "rates": _rates, "sinkhorn": _sinkhorn,
            "benchmark": _benchmark, "posterior": _posterior, "sample": _sample, "demo": _demo, "info": _info}
