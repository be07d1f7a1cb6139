"""What a distributed run leaves on every rank, and fields on disk, written by all ranks together."""
from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np

from ..status import Status
from .launch import agree
from .layout import Layout


@dataclass(frozen=True, eq=False)
class DistributedResult:
    """The result of :func:`pmapde.distributed.solve` with ``gather=False``, the same on all ranks but for the arrays.

    Attributes
    ----------
    layout : Layout
        ``layout.ranges`` are the cells of this rank.
    status : Status
    success : bool
    displacement_potential : ndarray
        ``phi = u - q`` at this rank's cells.
    displacement : ndarray, (d, ...)
        ``T(x) - x`` at this rank's cells.
    cost, residual, drift, margin, narrow_mass, folded_mass, push_forward_error : float
        Of the whole grid, as in :class:`pmapde.Solution`, but that ``cost`` is always that of the map, never the dual;
        too large a ``push_forward_error`` is ``MASS_MISPLACED``.
        Folds are not straightened, which needs the whole map (``gather=True``): a map with any is ``FOLDED``.
    history : list of Step
        Without their arrays.
    stats : dict
    """

    layout: Layout
    status: Status
    displacement_potential: np.ndarray
    displacement: np.ndarray
    cost: float
    residual: float
    drift: float
    margin: float
    narrow_mass: float
    folded_mass: float
    push_forward_error: float
    history: list
    stats: dict

    @property
    def success(self):
        return self.status.success

    def write(self, path):
        """``displacement_potential`` of the whole grid as one .npy file, written by all ranks together."""
        write_field(path, self.layout, self.displacement_potential)


def refuse_unwritable(path, comm):
    """:class:`OSError` on all ranks where ``path`` is a folder, or in none."""
    error = None
    if comm.rank == 0 and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path)))):
        error = OSError(f"{os.fspath(path)!r} cannot be written: it is a folder, or in one that does not exist.")
    agree(comm, error)


def write_field(path, layout, field):
    """A distributed field as a .npy file in C order (MPI-IO): no rank holds it whole. Replaces ``path`` only when all
    is written."""
    from mpi4py import MPI
    refuse_unwritable(path, layout.comm)
    header, error = io.BytesIO(), None
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": layout.grid.shape})
    temporary = f"{os.fspath(path)}.writing"
    firsts, shape = [first for first, _ in layout.ranges], list(layout.shape)
    part = MPI.DOUBLE.Create_subarray(list(layout.grid.shape), shape, firsts)
    part.Commit()
    field = np.ascontiguousarray(field, dtype="<f8")
    file = MPI.File.Open(layout.comm, temporary, MPI.MODE_CREATE | MPI.MODE_WRONLY)
    try:
        file.Set_size(0)
        if layout.comm.rank == 0:
            file.Write_at(0, header.getvalue())
        file.Set_view(len(header.getvalue()), MPI.DOUBLE, part)
        file.Write_all(field)
        file.Sync()
    finally:
        file.Close()
        part.Free()
    layout.comm.Barrier()
    try:  # a full disk is no error for every MPI
        written = np.load(temporary, mmap_mode="r")[layout.slices]
        whole = np.array_equal(np.ascontiguousarray(written).view(np.uint64), field.view(np.uint64))
    except (OSError, ValueError):
        whole = False
    if not whole:
        error = OSError(f"{os.fspath(path)!r} cannot be written: what was read back differs, the disk may be full.")
    try:
        agree(layout.comm, error)
        if layout.comm.rank == 0:
            os.replace(temporary, path)
    finally:
        if layout.comm.rank == 0 and os.path.exists(temporary):
            os.remove(temporary)
    layout.comm.Barrier()


def read_checkpoint(path):
    """The displacement potential of a checkpoint or of :meth:`DistributedResult.write`, mapped from the file: only what
    is sliced is read."""
    try:
        field = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"`start` {os.fspath(path)!r} is not a complete checkpoint ({error}).") from None
    if not (isinstance(field, np.ndarray) and field.dtype == np.float64 and field.ndim in (2, 3)):
        raise ValueError(f"`start` {os.fspath(path)!r} must hold a float64 field of two or three axes, it holds "
                         f"{getattr(field, 'dtype', type(field).__name__)} of shape {getattr(field, 'shape', ())}.")
    return field
