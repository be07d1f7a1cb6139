"""R15: the distributed engine on several ranks, through the environment that ``make test-distributed`` makes."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import pmapde

from .setting import ROOT

PYTHON = ROOT / ".venv-petsc" / "bin" / "python"
TESTS = ROOT / "tests" / "distributed"
MOST_SECONDS = 10  # between the death of a rank and the end of the job


def launched(ranks, *arguments):
    """A job on ``ranks`` ranks."""
    mpiexec = shutil.which("mpiexec.openmpi") or shutil.which("mpiexec")
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMPI_ALLOW_RUN_AS_ROOT",
             "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe", "OMPI_MCA_mpi_yield_when_idle")
    return subprocess.Popen([mpiexec, "-n", str(ranks), PYTHON, *map(str, arguments)], text=True, cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={
                                **os.environ, **dict.fromkeys(names, "1"), "PYTHONPATH": str(ROOT),
                                "NUMBA_CACHE_DIR": str(ROOT / ".venv-petsc" / "numba-cache")})


def _same(ranks, folder, job, serial):
    """Largest relative difference from the serial potentials, infinite where the job fails or a status differs."""
    process = launched(ranks, TESTS / "job.py", "answers", folder)
    process.communicate()
    if process.returncode:
        return np.inf
    notes, worst = json.loads((folder / "notes.json").read_text()), 0.0
    with np.load(folder / "potentials.npz") as potentials:
        for name, note in notes.items():
            expected = serial[name.split(", ")[0]]
            difference = np.ptp(potentials[name] - expected.potential) / np.ptp(expected.displacement_potential)
            worst = max(worst, difference if note["status"] == expected.status.name else np.inf)
    return float(worst)


def _killed(folder):
    """``(exit status, seconds until the end of the job, whether the checkpoint is whole)`` once a rank is killed."""
    process = launched(2, TESTS / "job.py", "killed", folder)
    process.communicate()
    ended = time.time()
    saved = folder / "saved.npy"  # rank 1 dies as soon as the step before has been written
    whole = saved.exists() and np.isfinite(np.load(saved)).all() and not (folder / "notes.json").exists()
    return process.returncode, ended - saved.stat().st_mtime if whole else np.inf, bool(whole)


def _copies_refused(folder):
    """Whether a launcher of another MPI, whose processes do not find each other, is found out."""
    command = [PYTHON, "-m", "pmapde", "solve", "ring", "ball", "--engine", "petsc", "--out", folder / "out"]
    copies = [subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, env={
        **os.environ, "PYTHONPATH": str(ROOT), "PMI_SIZE": "2", "PMI_RANK": str(rank)}) for rank in range(2)]
    errors = [copy.communicate()[1] for copy in copies]
    # the first speaks and fails for all; the others end quietly: mpiexec would kill it with the first of them to fail
    return (copies[0].returncode == 2 and "MPI sees 1" in errors[0] and not errors[1]
            and not (folder / "out").exists())


def ranks(full):
    """The serial answers to 1e-9; a rank that is killed; a wrong launcher."""
    if not PYTHON.exists():
        return None, "no .venv-petsc: `make test-distributed` makes it"
    sys.path.insert(0, str(TESTS))
    import job
    serial = {name: pmapde.solve(problem, job.PLAIN, tolerance=job.TIGHT) for name, problem in job.problems().items()}
    counts = (1, 2, 3, 4) if full else (2,)
    with tempfile.TemporaryDirectory() as name:
        worst = max(_same(count, Path(tempfile.mkdtemp(dir=name)), job, serial) for count in counts)
        code, seconds, whole = _killed(Path(tempfile.mkdtemp(dir=name)))
        refused = _copies_refused(Path(name))
    return worst <= 1e-9 and code != 0 and seconds < MOST_SECONDS and whole and refused, (
        f"on {', '.join(map(str, counts))} ranks serial's potentials to {worst:.0e}; killed rank: status {code} within "
        f"{MOST_SECONDS} s: {'yes' if seconds < MOST_SECONDS else 'no'}, checkpoint "
        f"{'whole' if whole else 'lost'}; wrong mpiexec {'refused' if refused else 'NOT refused'}")
