"""The options of the command line."""
from __future__ import annotations

import argparse
import math

SOLVERS = {"auto": "Automatic", "geometric": "GeometricMultigrid", "black-box": "BlackBoxMultigrid",
           "algebraic": "AlgebraicMultigrid", "spectral": "Spectral", "direct": "Direct"}
INTEGRATORS = {"esdirk3": "ESDIRK3", "tr-bdf2": "TRBDF2", "backward-euler": "BackwardEuler"}
MODELS = ("banana", "funnel", "two_modes", "eight_schools", "rings")
STUDIES = ("space", "time", "decay", "contracting", "sublinear", "regret", "evi", "limit", "steps")
BENCHMARKS = ("cosine", "array", "gaussians", "contrast", "photographs", "zeros", "cosine3d", "contrast3d", "noise3d",
              "zeros3d")


def build_parser():
    """Parser of all commands; ``command`` of what it returns is a name of `commands.COMMANDS`."""
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

    resume = commands.add_parser("resume", help="go on with an interrupted solve or flow",
                                 description="FILE is what --checkpoint wrote: it holds the densities and the command. "
                                 "The results are those of a run that was never interrupted, to the last bit.")
    resume.add_argument("file", metavar="FILE")
    resume.add_argument("--out", metavar="DIR", help="another folder than the command's")
    resume.add_argument("--every", type=float, metavar="S", help="seconds between checkpoints (as before)")
    resume.add_argument("--threads", type=int, metavar="N")

    rates = commands.add_parser("rates", help="measure and plot convergence rates, decay, regret and EVI slack",
                                description="Writes a figure (PNG) and the numbers behind it (CSV) per study, and the "
                                "fitted slopes in summary.json.")
    rates.add_argument("--out", required=True, metavar="DIR")
    rates.add_argument("--only", nargs="+", choices=STUDIES, metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    rates.add_argument("--quick", action="store_true", help="smaller grids, fewer points")
    rates.add_argument("--json", action="store_true", help="print the slopes as JSON")

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
    posterior.add_argument("--max-seconds", type=float, default=120.0, metavar="S", help="time limit (default 120)")
    posterior.add_argument("--seed", type=int, default=0, metavar="S")
    posterior.add_argument("--threads", type=int, metavar="N")
    posterior.add_argument("--no-figures", action="store_true")
    posterior.add_argument("--json", action="store_true")

    sample = commands.add_parser("sample", help="learn a table of samples and generate more like them",
                                 description="DATA: a table of two or three columns, .csv, .tsv, .npy or .npz, or the "
                                 "name of a toy (moons, ring, rings, spirals, five_gaussians, eight_gaussians, "
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
    sample.add_argument("--max-seconds", type=float, metavar="S", help="time limit of the fit (default none)")
    sample.add_argument("--seed", type=int, default=0, metavar="S")
    sample.add_argument("--ledger", choices=("full", "densities"), default="densities",
                        help="'full' adds Bregman divergences and the regret identity")
    sample.add_argument("--toy-size", type=int, default=5000, metavar="K", help="samples of a toy (default 5000)")
    sample.add_argument("--no-figures", action="store_true")
    sample.add_argument("--json", action="store_true")

    demo = commands.add_parser("demo", help="solve a picture, a volume and a problem with a known answer")
    demo.add_argument("--out", default="pmapde-demo", metavar="DIR")
    demo.add_argument("--quick", action="store_true", help="the same on grids a quarter or half as fine")

    info = commands.add_parser("info", help="versions, threads, optional parts, names of the gallery")
    info.add_argument("--json", action="store_true")
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
