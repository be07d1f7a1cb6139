"""The same equation on many processes and machines, on PETSc (petsc4py, mpi4py): an optional part.

Nothing else in the package imports it but the command line, on demand.
"""
from .engine import solve
from .launch import communicator
from .problem import SampledProblem
from .result import DistributedResult, read_checkpoint
from .target import SlicedDensity

__all__ = ["DistributedResult", "SampledProblem", "SlicedDensity", "communicator", "read_checkpoint", "solve"]
