"""The command line: parses, calls the library, prints."""
from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

OURS = {"solution.npz", "summary.json", "densities.png", "deformed_grid.png", "displacement.png", "push_forward.png",
        "interpolation.png", "residual_history.png"}
FLOWS = {"trajectory.npz", "ledger.csv", "flow_densities.png", "ledger.png", "summary.json"}
SOLVERS = {"auto": "Automatic", "geometric": "GeometricMultigrid", "black-box": "BlackBoxMultigrid",
           "algebraic": "AlgebraicMultigrid", "spectral": "Spectral", "direct": "Direct"}


INTEGRATORS = {"esdirk3": "ESDIRK3", "tr-bdf2": "TRBDF2", "backward-euler": "BackwardEuler"}
STUDIES = ("space", "time", "decay", "sublinear", "regret", "evi")


class Failure(Exception):
    """One sentence for standard error, and the exit status."""

    def __init__(self, sentence, code=2):
        super().__init__(sentence)
        self.code = code


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
    solve.add_argument("--max-steps", type=int, default=300, metavar="N", help="implicit steps per grid (default 300)")
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
    flow.set_defaults(run=_flow)

    rates = commands.add_parser("rates", help="measure and plot convergence rates, decay, regret and EVI slack",
                                description="Writes a figure (PNG) and the numbers behind it (CSV) per study, and the "
                                "fitted slopes in summary.json.")
    rates.add_argument("--out", required=True, metavar="DIR")
    rates.add_argument("--only", nargs="+", choices=STUDIES, metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    rates.add_argument("--quick", action="store_true", help="smaller grids, fewer points")
    rates.add_argument("--json", action="store_true", help="print the slopes as JSON")
    rates.set_defaults(run=_rates)

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


def main(argv=None):
    """Run the command line; returns the exit status (0 done, 1 not solved, 2 bad input, 130 interrupted)."""
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
    except Failure as failure:
        return _complain(failure, failure.code)
    except BrokenPipeError:  # the reader, `head` for instance, has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, MemoryError, OSError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except Terminated:
        return _complain("terminated", 143)
    except Exception as error:
        if os.environ.get("PMAPDE_TRACEBACK"):
            raise
        return _complain(f"unexpected {type(error).__name__}: {error} (PMAPDE_TRACEBACK=1 shows where).", 1)
    return 0


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


# input


def _shape(text):
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not 1 <= len(shape) <= 3 or min(shape) < 2:
        raise Failure(f"--size must be N, NxM or NxMxK with at least 2 cells each, got {text!r}.")
    return shape


def _read(name, what):
    """The array of a file, or None for a gallery name."""
    from . import gallery
    path = Path(name)
    if not path.exists():
        if name in gallery.names():
            return None
        import difflib
        close = difflib.get_close_matches(name, gallery.names(), 1)
        hint = f"; did you mean the gallery's {close[0]!r}?" if close else "; `pmapde info` lists the gallery."
        raise Failure(f"{what} {name!r} is neither a file nor a name of the gallery{hint}")
    if path.is_dir():
        raise Failure(f"{what} {name!r} is a folder; name an image, .npy or .npz file.")
    return _read_array(path, what) if path.suffix.lower() in (".npy", ".npz") else _read_image(path, what)


def _read_array(path, what):
    import zipfile
    import zlib

    import numpy as np
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                keys = ([key for key in ("density", "values") if key in content.files][:1]
                        or [key for key in content.files if content[key].ndim in (2, 3)])
                if len(keys) != 1:
                    raise Failure(f"{what} {str(path)!r} holds {len(keys)} arrays of two or three axes"
                                  f"{': ' if keys else ''}{', '.join(keys)}; name one of them 'density'.")
                content = content[keys[0]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Failure(f"{what} {str(path)!r} is not a readable array file ({error}).") from None
    return content


def _read_image(path, what):
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError
    try:
        with Image.open(path) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                raise Failure(f"{what} {str(path)!r} has transparency; flatten it onto a background first.")
            image = ImageOps.exif_transpose(image)  # cameras store the way up beside the pixels
            grey = image if image.mode in ("I", "F") or image.mode.startswith("I;") else image.convert("L")
            return np.asarray(grey, dtype=float)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise Failure(f"{what} {str(path)!r} is not an image that can be read ({error}).") from None


def _densities(arguments):
    """Source and target arrays, resampled where --size asks for it."""
    from . import gallery
    from .density import checked_values
    from .transfer import average
    names = {"SOURCE": arguments.source, "TARGET": arguments.target}
    arrays = {what: _read(name, what) for what, name in names.items()}
    arrays = {what: None if array is None else checked_values(array, what) for what, array in arrays.items()}
    given = [array.shape for array in arrays.values() if array is not None]
    dimensions = {len(shape) for shape in given} or {
        2 if all(name in gallery.names(2) for name in names.values()) else 3}
    if len(dimensions) > 1:
        raise Failure(f"SOURCE and TARGET must both be pictures or both be volumes, "
                      f"got shapes {given[0]} and {given[1]}.")
    dimension = dimensions.pop()
    shape = given[0] if given else (128, 128) if dimension == 2 else (32, 32, 32)
    if arguments.size:
        size = _shape(arguments.size)
        dimension = len(size) if len(size) > 1 and not given else dimension
        shape = size * dimension if len(size) == 1 else size
        if len(shape) != dimension:
            raise Failure(f"--size {arguments.size} has {len(shape)} axes, the densities have {dimension}.")
    for what, name in names.items():
        if arrays[what] is None:
            arrays[what] = gallery.load(name, shape)
        elif arguments.size:
            arrays[what] = average(arrays[what], shape)
    return arrays["SOURCE"], arrays["TARGET"]


def _tolerance(text):
    if text == "discretization":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise Failure(f"--tolerance must be 'discretization' or a positive number, got {text!r}.")
    return value


# output


@contextmanager
def _output(directory, own):
    """A temporary folder inside ``directory``; its files are moved up only when the block has ended well.

    Of the files ``own``, those of an earlier run that were not written again go. Enter it before the work: a place that
    cannot be written is found out first. On failure the folders made here go.
    """
    if not str(directory):
        raise Failure("--out must not be empty.")
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise Failure(f"--out {str(directory)!r} exists and is not a folder.")
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    temporary = None
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=directory, prefix=".writing-"))
        except OSError as error:
            raise Failure(f"--out {str(directory)!r} cannot be written ({error.strerror}).") from None
        yield temporary
        written = {path.name for path in temporary.iterdir()}
        for name in written:
            os.replace(temporary / name, directory / name)
        # figures of an earlier run would belong to another solution
        for name in own - written if written else ():
            (directory / name).unlink(missing_ok=True)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not empty: it holds the results, or somebody else's files
                folder.rmdir()


@contextmanager
def _progress(describe=None):
    """A callback that draws a bar on a terminal, and nothing elsewhere; ``describe`` says what of a step."""
    describe = describe or _describe_step
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm
    with tqdm(unit="step", leave=False, file=sys.stderr, bar_format="{desc} {n_fmt} steps [{elapsed}]") as bar:
        def callback(step):
            text, count = describe(step)
            bar.set_description_str(text)
            bar.update(count)
        yield callback


def _describe_step(step):
    shape = "x".join(map(str, step.grid.shape))
    goal = f" goal {step.tolerance:.1e}" if step.tolerance else ""
    return (f"grid {step.level + 1}/{step.levels} ({shape}) residual {step.residual:.1e}{goal}",
            step.newton_iterations)


@contextmanager
def _study_progress(names):
    """The names, with a bar on a terminal."""
    from tqdm import tqdm
    with tqdm(names, leave=False, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        yield bar


def _json(report):
    def finite(value):
        if isinstance(value, dict):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return json.dumps(finite(report), indent=2, allow_nan=False)


def _write(solution, temporary, extra, figures=True):
    """Data, summary and figures of a solution into a temporary folder; returns the names of the files."""
    solution.save(temporary / "solution.npz")
    (temporary / "summary.json").write_text(_json({**extra, **solution.summary()}) + "\n")
    if figures and math.isfinite(solution.residual):
        from . import plotting
        plotting.save_figures(solution, temporary)
    return sorted(path.name for path in temporary.iterdir())


def _failed(solution, what="not solved"):
    return Failure(f"{what} ({solution.status.name}): {solution.status.value}", 1)


# commands


def _problem(arguments):
    source, target = _densities(arguments)
    import pmapde
    grid = pmapde.Grid(source.shape, periodic=arguments.boundary == "periodic")
    return pmapde.TransportProblem(source, target, grid=grid, floor=arguments.floor)


def _scheme(arguments):
    return None if arguments.scheme == "auto" else arguments.scheme


def _finish(result, arguments, write):
    """Write a result and print it; a failed one only if asked for."""
    if not (result.success or arguments.keep_failed):
        raise _failed(result)
    inputs = {"command": arguments.line, "source": arguments.source, "target": arguments.target,
              "floor": arguments.floor, "boundary": arguments.boundary, "versions": _versions()}
    names = write(inputs)
    return inputs, names


def _report(result, arguments, inputs, names):
    if arguments.json:
        print(_json({**inputs, **result.summary()}))
    else:
        print(result)
        _print_paths(arguments.out, names)
    if not result.success:
        raise _failed(result)


def _solve(arguments):
    tolerance = _tolerance(arguments.tolerance)
    problem = _problem(arguments)
    import pmapde
    method = pmapde.PseudoTransient(scheme=_scheme(arguments), linear=getattr(pmapde, SOLVERS[arguments.solver])())
    with _output(arguments.out, OURS) as temporary:
        with _progress() as callback:
            solution = pmapde.solve(problem, method, tolerance=tolerance, extrapolate=arguments.extrapolate,
                                    threads=arguments.threads, max_steps=arguments.max_steps, callback=callback)
        inputs, names = _finish(solution, arguments,
                                lambda inputs: _write(solution, temporary, inputs, not arguments.no_figures))
    _report(solution, arguments, inputs, names)


def _flow(arguments):
    try:
        times = [float(part) for part in arguments.times.split(",")]
    except ValueError:
        raise Failure(f"--times must be numbers separated by commas, got {arguments.times!r}.") from None
    problem = _problem(arguments)
    import pmapde
    method = getattr(pmapde, INTEGRATORS[arguments.integrator])(step=arguments.step, scheme=_scheme(arguments))
    with _output(arguments.out, FLOWS) as temporary:
        with _progress(lambda step: (f"time {step.time:.3g} of {times[-1]:g}, step {step.dt:.1e}", 1)) as callback:
            trajectory = pmapde.flow(problem, times, method, tolerance=arguments.tolerance, ledger=arguments.ledger,
                                     threads=arguments.threads, callback=callback)

        def write(inputs):
            trajectory.save(temporary / "trajectory.npz")
            trajectory.ledger.write_csv(temporary / "ledger.csv")
            (temporary / "summary.json").write_text(_json({**inputs, **trajectory.summary()}) + "\n")
            if not arguments.no_figures and len(trajectory.times):
                from . import plotting
                plotting.save_figure(plotting.flow_densities(trajectory), temporary / "flow_densities.png")
                plotting.save_figure(plotting.ledger(trajectory.ledger), temporary / "ledger.png")
            return sorted(path.name for path in temporary.iterdir())

        inputs, names = _finish(trajectory, arguments, write)
    _report(trajectory, arguments, inputs, names)


def _rates(arguments):
    from . import plotting, rates
    chosen = arguments.only or STUDIES
    slopes = {}
    with _output(arguments.out, set()) as temporary:
        with _study_progress(chosen) as names:
            for name in names:
                study = rates.STUDIES[name](arguments.quick)
                slopes[name] = study.slopes()
                study.write_csv(temporary / f"{name}.csv")
                plotting.save_figure(plotting.study(study), temporary / f"{name}.png")
        summary = {"command": arguments.line, "slopes": slopes, "versions": _versions()}
        (temporary / "summary.json").write_text(_json(summary) + "\n")
        written = sorted(path.name for path in temporary.iterdir())
    if arguments.json:
        print(_json(summary))
        return
    for name, fitted in slopes.items():
        for label, slope in fitted.items():
            print(f"{name:<10} slope {slope:6.3f}  {label}")
    _print_paths(arguments.out, written)


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
        with _output(directory, OURS) as temporary:
            with _progress() as callback:
                solution = pmapde.solve(problem, callback=callback)
            if not solution.success:
                raise _failed(solution, f"the demo's case {folder!r} was not solved")
            names = _write(solution, temporary, {"command": arguments.line, "case": title, "versions": _versions()})
        print(solution)
        if folder == "known":
            print(f"error     map {known.map_error(solution.displacement):.2e} in L2(source), "
                  f"W2^2 {solution.cost / known.cost - 1:.2e} relative")
        _print_paths(directory, names)
    points = np.array([[0.25, 0.25], [0.5, 0.75]])
    print(f"the map takes {points.tolist()} to {np.round(solution.map(points), 6).tolist()}, exactly "
          f"{np.round(known.map(points), 6).tolist()}")


def _versions():
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": sys.version.split()[0]}
    for name in ("pmapde", "numpy", "scipy", "numba", "pyamg", "matplotlib", "pillow", "threadpoolctl", "tqdm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _info(arguments):
    import importlib.util

    import numba

    from . import gallery
    from .density import GridDensity
    from .memory import available_memory
    from .threads import SERIAL_BELOW
    GridDensity([[1, 2], [1, 2]]).log_density([[0.5, 0.5]])  # numba chooses its threading layer at the first kernel
    report = {
        "versions": _versions(),
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
