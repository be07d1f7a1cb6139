"""Sums over rows of an array, four neighbouring values at a time.

The four coefficients that a cubic takes of a row lie next to each other in memory: one load and one multiplication of a
vector of four, which compilers find in loops over many points, but not inside the work for one point. So this is
written down in LLVM's own terms; on machines with shorter vectors LLVM cuts them.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 4
INDEX, ADDRESS, VECTOR = ir.IntType(32), ir.IntType(64), ir.VectorType(ir.DoubleType(), LANES)
CONTRACT = ("contract",)


class _Lanes:
    """Arithmetic with vectors of four; a sum that has not begun is None."""

    def __init__(self, builder):
        self.builder = builder

    def same(self, number):
        """Four times the same number."""
        nothing = ir.Constant(VECTOR, ir.Undefined)
        first = self.builder.insert_element(nothing, number, INDEX(0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(INDEX, LANES), [0] * LANES))

    def load(self, address):
        return self.builder.load(self.builder.inttoptr(address, VECTOR.as_pointer()), align=8)

    def add(self, total, weight, vector):
        product = self.builder.fmul(weight, vector, flags=CONTRACT)
        return product if total is None else self.builder.fadd(total, product, flags=CONTRACT)

    def numbers(self, vector):
        return [self.builder.extract_element(vector, INDEX(lane)) for lane in range(LANES)]


def _summing(with_slopes):
    """The intrinsic with and without derivatives."""
    @intrinsic
    def sums(typing_context, array, first, weights, slopes):
        rows = len(weights)  # axes but the last
        result = types.UniTuple(types.UniTuple(types.float64, LANES), 1 + rows if with_slopes else 1)

        def generate(context, builder, signature, arguments):
            data, lanes = make_array(signature.args[0])(context, builder, arguments[0]), _Lanes(builder)
            strides = cgutils.unpack_tuple(builder, data.strides, rows + 1)
            by_axis = [[[lanes.same(number) for number in cgutils.unpack_tuple(builder, part, LANES)]
                        for part in cgutils.unpack_tuple(builder, argument, rows)] for argument in arguments[2:]]

            def summed(address, axis):
                """Values summed over the axes from ``axis`` on but the last, then the derivatives along each."""
                if axis == rows:
                    return [lanes.load(address)]
                totals = [None] * (1 + rows - axis if with_slopes else 1)
                for weight, slope in zip(*(part[axis] for part in by_axis)):
                    value, *along = summed(address, axis + 1)
                    if with_slopes:
                        totals[1] = lanes.add(totals[1], slope, value)
                    for k, vector in zip((0, *range(2, len(totals))), (value, *along)):
                        totals[k] = lanes.add(totals[k], weight, vector)
                    address = builder.add(address, strides[axis])
                return totals
            corner = builder.add(builder.ptrtoint(data.data, ADDRESS), builder.mul(arguments[1], ADDRESS(8)))
            four = signature.return_type.dtype
            found = [context.make_tuple(builder, four, lanes.numbers(vector)) for vector in summed(corner, 0)]
            return context.make_tuple(builder, signature.return_type, found)
        return result(array, types.int64, weights, slopes), generate
    return sums


row_sums = _summing(False)
row_sums.__doc__ = """``(sums,)`` as of :func:`row_sums_and_slopes`, without derivatives."""
row_sums_and_slopes = _summing(True)
row_sums_and_slopes.__doc__ = """Four neighbouring sums over rows of a C-ordered array, and their derivatives.

``first``: flat index of a corner; ``weights``, ``slopes``: for every axis but the last, four numbers. The tuple of

    sum over a (and b) of weights[0][a] (weights[1][b]) array[i + a, (j + b,) k + 0 ... 3],

and the same with ``slopes`` in the place of ``weights`` along the first axis, (along the second).
"""
