"""Files that are whole or refused: named arrays and a JSON header, written atomically, checksummed, never pickled.

A file is a zip archive of .npy members that are stored, not compressed (so that no file unpacks to more than its size),
whose comment ends with the SHA-256 of every byte before it: ``numpy.load`` can read it too, a flipped bit cannot hide.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from .density import GridDensity
from .grid import Grid
from .problem import TransportProblem

_CHUNK = 2**20
_LABEL, _DIGITS = b"sha256 ", 64
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}\.npy")
_TYPES = {"<f8": np.float64, "<i8": np.int64, "<i4": np.int32, "|b1": np.bool_, "|u1": np.uint8}
_MOST_AXES = 4


def write(path, header, arrays):
    """Write atomically: a temporary file beside ``path``, synchronised, then moved over it.

    Whatever happens, ``path`` is the old file or the new one; the temporary one of a process that was killed goes with
    the next :func:`remove_abandoned`.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}-", suffix=".part")
    try:
        with os.fdopen(handle, "w+b") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                arrays = {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays}
                for name, values in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(values), (1, 0), allow_pickle=False)
                archive.comment = _LABEL + b"0" * _DIGITS
            digest = _digest(file)
            file.seek(-_DIGITS, os.SEEK_END)
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0o022)  # a temporary file is private; the result gets the permissions of any other file
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if os.name == "posix":  # the new name too is to survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):  # not every file system can
            os.fsync(folder)
        os.close(folder)


def remove_abandoned(path):
    """Remove what processes that no longer exist left half-written beside ``path``."""
    path = Path(path)
    for part in path.parent.glob(f".{path.name}.*.part") if os.name == "posix" else ():
        owner = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d+)-\w+\.part", part.name)
        if owner:
            try:
                os.kill(int(owner[1]), 0)
            except ProcessLookupError:
                part.unlink(missing_ok=True)
            except (PermissionError, OverflowError):  # alive, somebody else's; no process has such a number
                pass


def read(path, formats, what):
    """``(header, arrays)`` of a file of one of the ``formats``, checked before any of it is believed.

    ``what`` the file should be, for the one sentence that refuses it.
    """
    path = Path(path)
    try:
        if not path.is_file() and path.exists():
            raise ValueError("it is not a file")
        with open(path, "rb") as file:
            _check_digest(file)
            with zipfile.ZipFile(file) as archive:
                arrays = _members(archive, file.seek(0, os.SEEK_END))
        header = json.loads(arrays.pop("header").tobytes())
        if not isinstance(header, dict) or header.get("format") not in formats:
            raise ValueError(f"format {header.get('format') if isinstance(header, dict) else None!r}, expected "
                             f"{'' if len(formats) == 1 else 'one of '}{', '.join(map(repr, formats))}")
        return header, arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # of any kind: a file may hold anything
        raise refusal(path, what, error) from None


def refusal(path, what, error):
    """The one sentence for a file that is not ``what`` it should be."""
    reason = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return ValueError(f"`path` {os.fspath(path)!r} is not {what} ({reason}).")


def _digest(file):
    """SHA-256, as hexadecimal digits, of all that comes before the digits at the end."""
    left, total = file.seek(0, os.SEEK_END) - _DIGITS, hashlib.sha256()
    file.seek(0)
    while left > 0:
        chunk = file.read(min(left, _CHUNK))
        total.update(chunk)
        left -= len(chunk)
    return total.hexdigest().encode()


def _check_digest(file):
    ending = len(_LABEL) + _DIGITS
    if file.seek(0, os.SEEK_END) < ending:
        raise ValueError("it is empty or cut short")
    file.seek(-ending, os.SEEK_END)
    tail = file.read()
    if not tail.startswith(_LABEL):
        raise ValueError("it is cut short, or was not written by this version of pmapde")
    if _digest(file) != tail[len(_LABEL):]:
        raise ValueError("its checksum is wrong: it is damaged")


def _members(archive, size):
    """The arrays of a file of ``size`` bytes; nothing is allocated that the file does not hold."""
    entries, arrays = archive.infolist(), {}
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its arrays are larger than it is")
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if not _NAME.fullmatch(entry.filename) or name in arrays:
            raise ValueError(f"it holds {entry.filename[:80]!r}, not the name of an array, or twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError("its arrays are compressed")
        with archive.open(entry) as member:
            if np.lib.format.read_magic(member) != (1, 0):
                raise ValueError(f"array {name!r} has another version of numpy's format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            dtype = _TYPES.get(dtype.str)
            if dtype is None or fortran or len(shape) > _MOST_AXES:
                raise ValueError(f"array {name!r} does not hold plain numbers in C order")
            content = member.read()
        if math.prod(shape) * np.dtype(dtype).itemsize != len(content):
            raise ValueError(f"array {name!r} is not as large as it says")
        arrays[name] = np.frombuffer(content, dtype).reshape(shape).copy()
    return arrays


# nested states, as JSON and arrays


def flattened(tree, arrays):
    """``tree`` of dicts, lists, tuples, numbers, texts and arrays as JSON can hold it; the arrays, each once, are added
    to ``arrays``, a dict by name."""
    if isinstance(tree, np.ndarray):
        name = next((name for name, values in arrays.items() if values is tree), None)
        if name is None:
            name = f"array_{len(arrays)}"
            arrays[name] = tree
        return {"array": name}
    if isinstance(tree, dict):
        return {"dict": {str(name): flattened(item, arrays) for name, item in tree.items()}}
    if isinstance(tree, (list, tuple)):
        return [flattened(item, arrays) for item in tree]
    return tree.item() if isinstance(tree, np.generic) else tree


def unflattened(tree, arrays):
    """What :func:`flattened` was given, tuples as lists."""
    if isinstance(tree, dict):
        if "array" in tree:
            return arrays[tree["array"]]
        return {name: unflattened(item, arrays) for name, item in tree["dict"].items()}
    return [unflattened(item, arrays) for item in tree] if isinstance(tree, list) else tree


def field(values, shape):
    """``values``, or a ValueError if they are not floating-point numbers of that ``shape``: kernels do not check."""
    if not (isinstance(values, np.ndarray) and values.shape == tuple(shape) and values.dtype == np.float64):
        raise ValueError(f"a field is missing, or not of shape {tuple(shape)}")
    return values


# problems


def packed_problem(problem):
    """``(header, arrays)`` of a problem. A target that is a function is kept by its values on the target grid."""
    grids = {name: {"shape": list(grid.shape), "box": [list(pair) for pair in grid.box],
                    "periodic": list(grid.periodic)}
             for name, grid in (("grid", problem.grid), ("target_grid", problem.target_grid))}
    header = {**grids, "floor": problem.floor, "floor_mass": list(problem.floor_mass),
              "interpolation": problem.target.interpolation,
              "points": [problem.source_is_pointwise, problem.target_is_pointwise],
              "source_log_mass": problem.source_log_mass, "target_log_mass": problem.target_log_mass}
    averages = {f"{side}_averages": values for side, values in problem.averages.items() if values is not None}
    return header, {"source": problem.source_values, "source_support": problem.source_support,
                    "target": problem.target_values, **averages}


def rebuilt_problem(header, arrays):
    """The problem again, to the last bit."""
    grids = [Grid(**header[name]) for name in ("grid", "target_grid")]
    source, target = field(arrays["source"], grids[0].shape), field(arrays["target"], grids[1].shape)
    source_points, target_points = map(bool, header["points"])
    densities = (GridDensity(source, grids[0], points=source_points),
                 GridDensity(target, grids[1], header["interpolation"], target_points))
    problem = TransportProblem(*densities, floor=0.0)
    if arrays["source_support"].shape != grids[0].shape or arrays["source_support"].dtype != bool:
        raise ValueError("the support of the source does not fit its grid")
    source.flags.writeable = False
    problem.source_values = source  # normalising twice would change the last bits
    problem.target = densities[1]
    problem.averages = {side: field(arrays[f"{side}_averages"], grid.shape) if f"{side}_averages" in arrays else None
                        for side, grid in zip(("source", "target"), grids)}
    problem.source_support = arrays["source_support"]
    problem.floor, problem.floor_mass = float(header["floor"]), tuple(map(float, header.get("floor_mass", (0, 0))))
    problem.source_log_mass, problem.target_log_mass = header["source_log_mass"], header["target_log_mass"]
    return problem
