"""Ranks: PETSc and MPI found or refused, a launcher of another MPI found out, failures that end the whole job."""
from __future__ import annotations

import contextlib
import os
import sys
import traceback

LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""What mpiexec (Open MPI; MPICH and its relatives) and srun say about how many processes they started."""


def communicator():
    """The communicator of all ranks (mpi4py), PETSc initialised.

    Raises
    ------
    ImportError
        Where petsc4py or mpi4py is missing.
    RuntimeError
        Where the launcher belongs to another MPI than petsc4py's, or PETSc is not built for real double precision.
    """
    try:
        import petsc4py
        petsc4py.init(["pmapde", "-no_signal_handler"])  # signals stay Python's
        from mpi4py import MPI
        from petsc4py import PETSc
    except ImportError as error:
        raise ImportError(f"the PETSc engine needs petsc4py and mpi4py ({error}): install Debian's python3-petsc4py "
                          f"and python3-mpi4py, or pip install \".[petsc]\" where PETSc is installed.") from None
    comm = MPI.COMM_WORLD
    for name in LAUNCHED:
        count = os.environ.get(name, "")
        if count.isdigit() and int(count) not in (1, comm.size):
            raise RuntimeError(f"mpiexec started {count} processes but MPI sees {comm.size}, each would compute "
                               f"everything alone: this mpiexec belongs to another MPI than petsc4py's, which is "
                               f"{MPI.Get_library_version().split(',')[0].strip()}; use its own.")
    if PETSc.ScalarType is not None and PETSc.ScalarType().dtype.str[1:] != "f8":
        raise RuntimeError(f"PETSc must be built for real double precision, got {PETSc.ScalarType().dtype}.")
    return comm


def launched_rank():
    """This process's number as its launcher counts, whatever MPI thinks."""
    numbers = (os.environ.get(name, "") for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"))
    return next((int(number) for number in numbers if number.isdigit()), 0)


@contextlib.contextmanager
def all_or_none(comm):
    """An exception inside, on whatever rank, ends all ranks: the others would wait for it for ever."""
    try:
        yield
    except BaseException as error:
        if comm.size == 1 or isinstance(error, GeneratorExit) or getattr(error, "everywhere", False):
            raise  # nobody waits
        sys.__stderr__.write(f"pmapde: error: rank {comm.rank}: {type(error).__name__}: {error}\n")
        if os.environ.get("PMAPDE_TRACEBACK"):
            traceback.print_exc(file=sys.__stderr__)
        sys.__stderr__.flush()
        comm.Abort(130 if isinstance(error, KeyboardInterrupt) else 1)


def together(comm, function):
    """``function()`` of this rank, once that of all ranks has ended well; else the first error, on all of them."""
    result, error = None, None
    try:
        result = function()
    except Exception as found:
        error = found
    agree(comm, error)
    return result


def agree(comm, error):
    """Raises the ``error`` of the lowest rank that has one, on all ranks."""
    errors = [found for found in comm.allgather(error) if found is not None]
    if errors:
        errors[0].everywhere = True
        raise errors[0]
