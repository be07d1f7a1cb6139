"""What the commands share: reading densities, an output folder that appears whole or not at all, progress, reports."""
from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

COMPILING = " (kernels are compiled at their first use, which may take a minute or three)"


class Failure(Exception):
    """One sentence for standard error, and the exit status."""

    def __init__(self, sentence, code=2):
        super().__init__(sentence)
        self.code = code


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


def samples(name, n):
    """The table of DATA: text, with or without a header, a .npy or .npz array, or a toy of that name."""
    from . import toys
    path = Path(name)
    if path.exists() and not path.is_dir():
        if path.suffix.lower() in (".npy", ".npz"):
            return _read_array(path, "DATA")
        return _read_table(path)
    if name in toys.names():
        import numpy as np
        return toys.draw(name, n, np.random.default_rng(0))
    raise Failure(f"DATA {name!r} is neither a table (.csv, .tsv, .npy, .npz) nor one of the toys "
                  f"{', '.join(toys.names())}.")


def _read_table(path):
    """Numbers separated by tabs, semicolons or blanks (with decimal commas, perhaps), or by commas; a header is left
    out, and a first column that it has no name for."""
    import numpy as np
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [(number, line.strip(" ")) for number, line in enumerate(file.read().splitlines(), 1)]
    except (UnicodeDecodeError, OSError) as error:
        raise Failure(f"DATA {str(path)!r} cannot be read as text ({error}).") from None
    lines = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
    delimiter = _delimiter([line for _, line in lines])
    try:
        rows = [(number, next(csv.reader([line], delimiter=delimiter, skipinitialspace=delimiter == " ")))
                for number, line in lines]
    except csv.Error as error:
        raise Failure(f"DATA {str(path)!r} is not a table of numbers ({error}).") from None

    def number(cell):
        return float(cell if delimiter == "," else cell.replace(",", "."))

    def is_number(cell):
        try:
            number(cell)
        except ValueError:
            return False
        return True
    skip = 0
    if rows and not all(map(is_number, rows[0][1])):
        header, rows = rows[0][1], rows[1:]
        skip = int(bool(rows) and (len(header) == len(rows[0][1]) - 1 or not header[0].strip()))
    if not rows:
        raise Failure(f"DATA {str(path)!r} has no rows of numbers.")
    table = []
    for line, row in rows:
        bad = [cell for cell in row[skip:] if not is_number(cell)]
        if bad:
            what = f"{bad[0].strip()!r} where a number should be" if bad[0].strip() else "an empty cell"
            raise Failure(f"DATA {str(path)!r} is not a table of numbers: {what} in line {line}; leave such rows or "
                          f"columns out.")
        table.append([number(cell) for cell in row[skip:]])
        if len(table[-1]) != len(table[0]):
            raise Failure(f"DATA {str(path)!r} is not a table of numbers: line {line} has {len(table[-1])} columns, "
                          f"the first row {len(table[0])}.")
    return np.array(table)


def _delimiter(lines):
    """What separates the columns of most lines: commas between digits are decimal where blanks are around them."""
    for mark in "\t;":
        if 2 * sum(mark in line for line in lines) >= max(1, len(lines)):
            return mark
    commas = sum("," in line for line in lines)
    blanks = sum(bool(re.search(r"[^,\s]\s+[^,\s]", line)) for line in lines)
    return "," if 2 * commas >= len(lines) and 2 * blanks < len(lines) else " "


def densities(arguments):
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


def tolerance(text):
    if text == "discretization":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise Failure(f"--tolerance must be 'discretization' or a positive number, got {text!r}.")
    return value


@contextmanager
def output(directory, own):
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
        with _undisturbed():
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)
            for folder in made:
                with suppress(OSError):  # not empty: it holds the results, or somebody else's files
                    folder.rmdir()


@contextmanager
def _undisturbed():
    """Within: a second Ctrl-C or SIGTERM is ignored."""
    before = {}
    with suppress(ValueError):  # not the main thread: no handlers there
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def silence():
    """Nothing is printed inside."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def progress(describe=None):
    """A callback that draws a bar on a terminal, and nothing elsewhere; ``describe`` says what of a step."""
    describe = describe or _describe_step
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm
    with tqdm(unit="step", leave=False, file=sys.stderr, bar_format="{desc} {n_fmt} steps [{elapsed}]",
              desc=f"starting{COMPILING}") as bar:
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
def working(what):
    """A line on a terminal while something is done that reports no steps."""
    from tqdm import tqdm
    with tqdm(desc=f"{what}{COMPILING}", bar_format="{desc}", leave=False, file=sys.stderr,
              disable=not sys.stderr.isatty()):
        yield


@contextmanager
def run_progress():
    """A callback that shows the rows of a benchmark as they come, on a terminal."""
    from tqdm import tqdm
    with tqdm(unit="run", leave=False, file=sys.stderr, disable=not sys.stderr.isatty(),
              bar_format="{desc} {n_fmt} runs [{elapsed}]") as bar:
        def callback(row):
            bar.set_description_str(f"{row['solver']}, {row['family']}, {row['grid']}")
            bar.update()
        yield callback


@contextmanager
def study_progress(names):
    """The names, with a bar on a terminal."""
    from tqdm import tqdm
    with tqdm(names, leave=False, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        yield bar


def describe_sweep(sweep):
    shape = "x".join(map(str, sweep.phi.shape))
    return f"epsilon {sweep.epsilon:.2e} ({shape}) marginal error {sweep.source.distance:.1e}", 1


def json_text(report):
    def finite(value):
        if isinstance(value, dict):
            return {name: finite(item) for name, item in value.items()}
        if isinstance(value, list):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return json.dumps(finite(report), indent=2, allow_nan=False)


def write_solution(solution, temporary, extra, figures=True):
    """Data, summary and figures of a solution into a temporary folder; returns the names of the files."""
    solution.save(temporary / "solution.npz")
    (temporary / "summary.json").write_text(json_text({**extra, **solution.summary()}) + "\n")
    if figures and (solution.blur or math.isfinite(solution.residual)):
        from . import plotting
        plotting.save_figures(solution, temporary)
    return sorted(path.name for path in temporary.iterdir())


def check_export(wanted):
    """Whether files for ParaView can be written is found out before the work."""
    if wanted:
        from .export import required
        try:
            required("pyevtk.vtk")
        except ImportError as error:
            raise Failure(str(error)) from None


def write_vti(solution, temporary):
    from .export import SIDES, save_vti
    return [save_vti(solution, temporary / f"{side}.vti", side=side).name for side in SIDES]


def write_plan(plan, temporary, extra, figures):
    plan.save(temporary / "plan.npz")
    (temporary / "summary.json").write_text(json_text({**extra, **plan.summary()}) + "\n")
    if figures and math.isfinite(plan.marginal_error[-1]):
        from . import plotting
        plotting.save_plan_figures(plan, temporary)
    return sorted(path.name for path in temporary.iterdir())


def write_flow(trajectory, temporary, extra, figures):
    trajectory.save(temporary / "trajectory.npz")
    trajectory.ledger.write_csv(temporary / "ledger.csv")
    (temporary / "summary.json").write_text(json_text({**extra, **trajectory.summary()}) + "\n")
    if figures and len(trajectory.times):
        from . import plotting
        plotting.save_flow_figures(trajectory, temporary)
    return sorted(path.name for path in temporary.iterdir())


def write_benchmark(report, temporary, figures):
    report.write(temporary)
    if figures and report.timed:
        from . import plotting
        plotting.save_benchmark(report.timed, temporary)
    return sorted(path.name for path in temporary.iterdir())


def write_posterior(posterior, model, draws, decay, temporary, extra, figures):
    import numpy as np
    header = ",".join(model.names)
    np.savetxt(temporary / "samples.csv", draws, delimiter=",", fmt="%.17g", header=header, comments="")
    posterior.solution.save(temporary / "solution.npz")
    decay.ledger.write_csv(temporary / "decay.csv")
    (temporary / "summary.json").write_text(json_text({**extra, **posterior.summary()}) + "\n")
    if figures:
        from . import plotting
        plotting.save_posterior_figures(posterior, model.names, draws, decay, temporary)
    return sorted(path.name for path in temporary.iterdir())


def write_generator(generator, data, generated, temporary, extra, figures):
    import numpy as np
    np.savetxt(temporary / "samples.csv", generated, delimiter=",", fmt="%.17g")
    generator.solution_.save(temporary / "solution.npz")
    generator.ledger_.write_csv(temporary / "ledger.csv")
    (temporary / "summary.json").write_text(json_text({**extra, **generator.summary()}) + "\n")
    if figures:
        from . import plotting
        plotting.save_generator_figures(generator, data, generated, temporary)
    return sorted(path.name for path in temporary.iterdir())


def failed(solution, what="not solved"):
    return Failure(f"{what} ({solution.status.name}): {solution.status.value}", 1)


def versions():
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": sys.version.split()[0]}
    for name in ("pmapde", "numpy", "scipy", "numba", "pyamg", "matplotlib", "pillow", "threadpoolctl", "tqdm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
