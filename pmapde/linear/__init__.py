"""Linear solvers behind one contract: ``settings.build(stencil, threads).apply(residual, threads)`` approximates
``A^-1``."""
