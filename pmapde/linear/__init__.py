"""Linear solvers behind one contract: ``settings.build(stencil).apply(residual, threads)`` approximates ``A^-1``."""
