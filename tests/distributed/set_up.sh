#!/bin/sh
# An environment for the distributed engine: Debian's PETSc, petsc4py and mpi4py, and a virtual environment that sees
# them. Prints why there is none; exit status 75 where this machine cannot have one, 1 where something of ours is wrong.
venv=$1
python=/usr/bin/python3
packages="python3-petsc4py-real libpetsc-real-dev python3-petsc4py python3-mpi4py openmpi-bin python3-venv"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

without() { echo "$1"; exit 75; }
works() { "$1" -c "from petsc4py import PETSc; import mpi4py.MPI, scipy, numba" >"$log" 2>&1; }

if ! "$python" -c "import petsc4py, mpi4py, ensurepip" 2>/dev/null || ! command -v mpiexec >/dev/null; then
    command -v apt-get >/dev/null || without "petsc4py is not installed and there is no apt-get"
    [ "$(id -u)" -eq 0 ] || without "petsc4py is not installed and apt-get needs root (apt-get install $packages)"
    { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >"$log" 2>&1 \
        || without "apt-get cannot install PETSc: $(grep -m 1 '^E:' "$log")"
fi
"$python" -c "import sys; sys.exit(sys.version_info < (3, 11))" || without "$python is older than Python 3.11"
[ -e "$venv/.installed" ] && [ ! setup.cfg -nt "$venv/.installed" ] && works "$venv/bin/python" && exit 0

rm -rf "$venv"
"$python" -m venv --system-site-packages "$venv" >"$log" 2>&1 || { tail -n 1 "$log"; exit 1; }
# Debian's petsc4py is compiled for numpy 1
"$venv/bin/pip" install -q "numpy<2" >"$log" 2>&1 || without "pip cannot install packages: $(grep -m 1 ERROR "$log")"
"$venv/bin/pip" install -q -e . pytest "numpy<2" >"$log" 2>&1 || { grep -m 1 ERROR "$log"; exit 1; }
works "$venv/bin/python" || { tail -n 1 "$log"; exit 1; }
touch "$venv/.installed"
