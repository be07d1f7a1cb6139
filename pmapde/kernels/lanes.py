"""Sums over rows of an array, four neighbouring values at a time.

The four values that a cubic, or a box of at most two cells, takes of a row lie next to each other in memory: one load
and one multiplication of a vector of four, which compilers find in loops over many points, but not inside the work for
one point. So this is written down in LLVM's own terms; on machines with shorter vectors LLVM cuts them.

The weights along an axis are vectors of four as well, made where they are used instead of stored and read again.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 4
AHEAD = 6
"""Rows that the next row of points will want: fetched early, as no processor foresees reads along curved lines."""
INDEX, ADDRESS, VECTOR = ir.IntType(32), ir.IntType(64), ir.VectorType(ir.DoubleType(), LANES)
CONTRACT = ("contract",)
CUBIC = ((1 / 6, 2 / 3, 1 / 6, 0.0), (-0.5, 0.0, 0.5, 0.0), (0.5, -1.0, 0.5, 0.0), (-1 / 6, 0.5, -0.5, 1 / 6))
"""Weights of four coefficients between the second and the third, by powers of the fraction on the way."""
LINEAR = ((0.0, 1.0, 0.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))


def _vector(numbers):
    return ir.Constant(VECTOR, list(numbers))


class _Lanes:
    """Arithmetic with vectors of four; a sum that has not begun is None."""

    def __init__(self, builder):
        self.builder = builder

    def shuffled(self, vector, places):
        return self.builder.shuffle_vector(vector, ir.Constant(VECTOR, ir.Undefined),
                                           ir.Constant(ir.VectorType(INDEX, LANES), places))

    def same(self, number):
        """Four times the same number."""
        first = self.builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, INDEX(0))
        return self.shuffled(first, [0] * LANES)

    def spread(self, vector):
        """Four vectors, each of one of the numbers."""
        return [self.shuffled(vector, [lane] * LANES) for lane in range(LANES)]

    def load(self, address):
        return self.builder.load(self.builder.inttoptr(address, VECTOR.as_pointer()), align=8)

    def fetch(self, address):
        """Have the memory there in the cache before it is read; any address will do."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte] + [INDEX] * 3)
        prefetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        self.builder.call(prefetch, [self.builder.inttoptr(address, byte), INDEX(0), INDEX(3), INDEX(1)])

    def times(self, first, second):
        return self.builder.fmul(first, second, flags=CONTRACT)

    def add(self, total, weight, vector):
        product = self.times(weight, vector)
        return product if total is None else self.builder.fadd(total, product, flags=CONTRACT)

    def total(self, vector):
        """Sum of the four."""
        pairs = self.builder.fadd(vector, self.shuffled(vector, [2, 3, 0, 1]))
        return self.builder.fadd(*(self.builder.extract_element(pairs, INDEX(lane)) for lane in range(2)))

    def clipped(self, vector, low, high):
        """NaN becomes ``high``."""
        for sign, bound in ((">", _vector([low] * LANES)), ("<", _vector([high] * LANES))):
            vector = self.builder.select(self.builder.fcmp_ordered(sign, vector, bound), vector, bound)
        return vector

    def spline(self, fraction, cubic, with_slopes):
        """Weights, and their derivatives if asked for, at a fraction of the way; ``cubic``: or else linear."""
        powers = [self.builder.select(cubic, _vector(one), _vector(other)) for one, other in zip(CUBIC, LINEAR)]
        t, found = self.same(fraction), []
        slopes = [self.times(_vector([k] * LANES), powers[k]) for k in (1, 2, 3)]
        for coefficients in (powers, slopes)[:1 + with_slopes]:
            *rest, value = coefficients
            for coefficient in reversed(rest):
                value = self.add(coefficient, t, value)
            found.append(value)
        return found

    def hats(self, place):
        """Of the hat functions of four cells: values at ``place``, past the lower face of the first, and integrals up
        to there."""
        t = self.clipped(self.builder.fadd(self.same(place), _vector(0.5 - lane for lane in range(LANES))), 0.0, 2.0)
        up = self.clipped(t, 0.0, 1.0)
        down = self.builder.fsub(t, up)
        squares = self.builder.fsub(self.times(up, up), self.times(down, down), flags=CONTRACT)
        return self.builder.fsub(up, down), self.add(down, _vector([0.5] * LANES), squares)

    def window(self, low, high, beyond_low, beyond_high):
        """Integrals of four hats over a span, and differences and sums of their values at its ends."""
        (at_low, below_low), (at_high, below_high) = self.hats(low), self.hats(high)
        weights = self.builder.fsub(below_high, below_low)
        for beyond, at in ((beyond_high, at_high), (beyond_low, self.builder.fneg(at_low))):
            weights = self.add(weights, self.same(beyond), at)
        return weights, self.builder.fsub(at_high, at_low), self.builder.fadd(at_high, at_low)

    def contracted(self, data, first, windows):
        """Sums of four values along every axis of an array from the flat index ``first`` on. ``windows``: by axis the
        weights and any number of others, each of which takes their place once. The tuple of the sum with the weights
        and those with the others, axis by axis."""
        ndim = len(windows)
        strides = cgutils.unpack_tuple(self.builder, data.strides, ndim)
        windows = [[self.spread(part) for part in window] for window in windows[:-1]] + [windows[-1]]

        def summed(address, axis):
            """Over the axes from ``axis`` on but the last."""
            if axis == ndim - 1:
                return [self.load(address)]
            weights, *others = windows[axis]
            totals = None
            for lane in range(LANES):
                value, *later = summed(address, axis + 1)
                terms = [(weights, value), *((other, value) for other in others), *((weights, part) for part in later)]
                totals = [self.add(total, part[lane], vector)
                          for total, (part, vector) in zip(totals or [None] * len(terms), terms)]
                address = self.builder.add(address, strides[axis])
            return totals
        corner = self.builder.add(self.builder.ptrtoint(data.data, ADDRESS), self.builder.mul(first, ADDRESS(8)))
        ahead = corner
        for stride, rows in zip(strides[:-1], [LANES - 1] * (ndim - 2) + [AHEAD]):
            ahead = self.builder.add(ahead, self.builder.mul(stride, ADDRESS(rows)))
        self.fetch(ahead)
        found, (weights, *others) = summed(corner, 0), windows[-1]
        return [self.total(self.times(weights, vector)) for vector in found] + [
            self.total(self.times(other, found[0])) for other in others]


def _spline_sums(with_slopes):
    """The intrinsic with and without derivatives."""
    @intrinsic
    def sums(typing_context, array, first, fractions, cubic):
        ndim = len(fractions)
        result = types.UniTuple(types.float64, 1 + ndim if with_slopes else 1)

        def generate(context, builder, signature, arguments):
            data, lanes = make_array(signature.args[0])(context, builder, arguments[0]), _Lanes(builder)
            windows = [lanes.spline(fraction, arguments[3], with_slopes)
                       for fraction in cgutils.unpack_tuple(builder, arguments[2], ndim)]
            found = lanes.contracted(data, arguments[1], windows)
            return context.make_tuple(builder, result, found)
        return result(array, types.int64, fractions, types.boolean), generate
    return sums


spline_value = _spline_sums(False)
spline_value.__doc__ = """``(value,)`` as of :func:`spline_value_and_slopes`, without derivatives."""
spline_value_and_slopes = _spline_sums(True)
spline_value_and_slopes.__doc__ = """Value and derivatives of a spline at a point, from a C-ordered array of
coefficients.

``first``: flat index of the first of the coefficients, four along every axis; ``fractions``: of the way from the second
to the third, by axis; ``cubic``: or else linear between these two. The tuple of the value and the derivatives in the
fractions.
"""


@intrinsic
def box_sums(typing_context, array, first, spans):
    """Integral over a box of the multilinear interpolant of a C-ordered array, and what its faces contribute.

    ``first``: flat index of the first of the cells that the box touches, four along every axis or fewer; ``spans``: by
    axis four numbers, the places of the lower and the upper face past the lower face of the first cell, both inside the
    array, and how far the faces are beyond these places (the interpolant is constant there). The tuple of the integral,
    and for every axis the difference and the sum of the integrals over the upper and the lower face.
    """
    ndim = len(spans)
    result = types.UniTuple(types.float64, 1 + 2 * ndim)

    def generate(context, builder, signature, arguments):
        data, lanes = make_array(signature.args[0])(context, builder, arguments[0]), _Lanes(builder)
        windows = [lanes.window(*cgutils.unpack_tuple(builder, span, LANES))
                   for span in cgutils.unpack_tuple(builder, arguments[2], ndim)]
        found = lanes.contracted(data, arguments[1], windows)
        return context.make_tuple(builder, result, found)
    return result(array, types.int64, spans), generate
