"""Vectors in Numba: as many numbers as a register of this processor holds, and what kernels do with them.

Memory is given by addresses, which are integers; an index counts vectors, or single numbers where that is said.
"""

import math
import zlib
from pathlib import Path

import llvmlite.binding
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, intrinsic, models, register_model, typeof_impl, unbox

VECTOR_BYTES = 64 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 32

# Numba keeps compiled kernels until the file of the outermost one changes. What these are made of is therefore part of
# the type of their first argument: a change here, or in the kernels that others call, compiles them anew.
SOURCES = ("vectors.py", "kernels.py")
STAMP = zlib.crc32(b"".join(Path(__file__).with_name(name).read_bytes() for name in SOURCES))


class Vector(types.Type):
    """`lanes` numbers in one register (or a few, where the processor's are narrower)."""

    def __init__(self, scalar, lanes):
        self.scalar = scalar
        self.lanes = lanes
        super().__init__(f"Vector({scalar}, {lanes})")


class VectorKind(types.Type):
    """The type of the argument that tells a kernel which vectors to compile for."""

    def __init__(self, scalar, lanes):
        self.vector = Vector(scalar, lanes)
        super().__init__(f"VectorKind({scalar}, {lanes}, {STAMP})")


class Kind:
    """What a kernel is given to tell it the vectors: numbers of one precision, and how many."""

    def __init__(self, scalar, lanes):
        self._numba_type_ = VectorKind(scalar, lanes)
        self.lanes = lanes


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        base = ir.FloatType() if kind.scalar == types.float32 else ir.DoubleType()
        super().__init__(manager, kind, ir.VectorType(base, kind.lanes))


register_model(VectorKind)(models.OpaqueModel)


@typeof_impl.register(Kind)
def _typeof(value, context):
    return value._numba_type_


@unbox(VectorKind)
def _unbox(kind, value, context):
    return NativeValue(context.context.get_dummy_value())


KINDS = {
    torch.float32: Kind(types.float32, VECTOR_BYTES // 4),
    torch.float64: Kind(types.float64, VECTOR_BYTES // 8),
}


def pointer(builder, address, index, kind):
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])


@intrinsic
def load(context, kind, address, index):
    """The vector number `index` behind `address`."""

    def generate(context, builder, signature, arguments):
        value = context.get_value_type(signature.return_type)
        loaded = builder.load(pointer(builder, arguments[1], arguments[2], value))
        loaded.align = 4
        return loaded

    return kind.vector(kind, address, index), generate


@intrinsic
def store(context, kind, address, index, value):
    def generate(context, builder, signature, arguments):
        stored = builder.store(arguments[3], pointer(builder, arguments[1], arguments[2], arguments[3].type))
        stored.align = 4
        return context.get_dummy_value()

    return types.void(kind, address, index, value), generate


@intrinsic
def get(context, kind, address, index):
    """The single number `index` behind `address`."""

    def generate(context, builder, signature, arguments):
        value = context.get_value_type(signature.return_type)
        return builder.load(pointer(builder, arguments[1], arguments[2], value))

    return kind.vector.scalar(kind, address, index), generate


@intrinsic
def put(context, kind, address, index, value):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[3], pointer(builder, arguments[1], arguments[2], arguments[3].type))
        return context.get_dummy_value()

    return types.void(kind, address, index, kind.vector.scalar), generate


@intrinsic
def integer(context, address, index):
    """The 64-bit integer number `index` behind `address`."""

    def generate(context, builder, signature, arguments):
        return builder.load(pointer(builder, *arguments, ir.IntType(64)))

    return types.int64(address, index), generate


@intrinsic
def put_integer(context, address, index, value):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], pointer(builder, *arguments[:2], ir.IntType(64)))
        return context.get_dummy_value()

    return types.void(address, index, types.int64), generate


@intrinsic
def real(context, address, index):
    """The float64 number `index` behind `address`."""

    def generate(context, builder, signature, arguments):
        return builder.load(pointer(builder, *arguments, ir.DoubleType()))

    return types.float64(address, index), generate


def filled(builder, value, vector):
    """A vector of the type `vector` with `value` in every lane."""
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, empty, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    )


@intrinsic
def splat(context, kind, value):
    """A vector with `value` in every lane."""

    def generate(context, builder, signature, arguments):
        return filled(builder, arguments[1], context.get_value_type(kind.vector))

    return kind.vector(kind, kind.vector.scalar), generate


@intrinsic
def lanes(context, kind):
    count = kind.vector.lanes
    return types.int64(kind), lambda context, builder, signature, arguments: ir.Constant(ir.IntType(64), count)


@intrinsic
def item_bytes(context, kind):
    size = 4 if kind.vector.scalar == types.float32 else 8
    return types.int64(kind), lambda context, builder, signature, arguments: ir.Constant(ir.IntType(64), size)


@intrinsic
def mul(context, a, b):
    return a(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def add(context, a, b):
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def number(context, kind, value):
    """`value` in the vectors' precision."""

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[1], value, kind.vector.scalar)

    return kind.vector.scalar(kind, value), generate


def call(builder, name, *vectors):
    kind = vectors[0].type
    name = f"llvm.{name}.v{kind.count}{kind.element.intrinsic_name}"
    signature = ir.FunctionType(kind, [kind] * len(vectors))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), vectors)


def fused(builder, a, b, c):
    return call(builder, "fmuladd", a, b, c)


@intrinsic
def fma(context, a, b, c):
    """a * b + c"""
    return a(a, b, c), lambda context, builder, signature, arguments: fused(builder, *arguments)


@intrinsic
def parity(context, bits):
    """1 where an odd number of `bits` is set, else 0."""

    def generate(context, builder, signature, arguments):
        return builder.and_(builder.ctpop(arguments[0]), ir.Constant(ir.IntType(64), 1))

    return types.int64(types.int64), generate


def sum_of(builder, value):
    """The sum of a vector's numbers, halves added to halves."""
    while value.type.count > 1:
        half = value.type.count // 2
        parts = []
        for start in (0, half):
            which = ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(start, start + half)))
            parts.append(builder.shuffle_vector(value, value, which))
        value = builder.fadd(*parts)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def _horner(builder, x, terms):
    """terms[0] + terms[1] x + terms[2] x^2 + ..."""
    *terms, value = [ir.Constant(x.type, [term] * x.type.count) for term in terms]
    while terms:
        value = fused(builder, value, x, terms.pop())
    return value


@intrinsic
def tanh(context, kind, a):
    """The hyperbolic tangent to a few units in the last place: e / (e + 2) with e = exp(2 a) - 1."""

    def generate(context, builder, signature, arguments):
        a = arguments[1]
        count = a.type.count
        single = a.type.element == ir.FloatType()
        constant = lambda value: ir.Constant(a.type, [value] * count)  # noqa: E731
        most = constant(10.0 if single else 20.0)  # from where on it is 1
        least = builder.fneg(most)
        a = builder.select(builder.fcmp_ordered(">", a, most), most, a)  # NaN stays
        a = builder.select(builder.fcmp_ordered("<", a, least), least, a)
        x = builder.fadd(a, a)
        # x = k ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, of which k times the first is exact
        k = call(builder, "floor", fused(builder, x, constant(1 / math.log(2)), constant(0.5)))
        first = 0.693359375 if single else 0.693147180369123816490
        second = -2.12194440054690583e-4 if single else 1.90821492927058770002e-10
        r = fused(builder, k, constant(-first), x)
        r = fused(builder, k, constant(-second), r)
        terms = [1 / math.factorial(n) for n in range(1, 9 if single else 15)]
        e = builder.fmul(r, _horner(builder, r, terms))  # exp(r) - 1
        whole = ir.VectorType(ir.IntType(32 if single else 64), count)
        fraction, bias = (23, 127) if single else (52, 1023)
        bits = builder.add(builder.fptosi(k, whole), ir.Constant(whole, [bias] * count))
        power = builder.bitcast(builder.shl(bits, ir.Constant(whole, [fraction] * count)), a.type)  # 2^k
        e = fused(builder, power, e, builder.fsub(power, constant(1.0)))
        return builder.fdiv(e, builder.fadd(e, constant(2.0)))

    return a(kind, a), generate


@intrinsic
def store_turn(context, kind, address, index, half):
    """Stores cosine, tangent and minus tangent of the vector `half`, in radians, from the vector number `index` on.

    NaN where `half` is not finite or too large for its last digit to be less than a turn.
    """

    def generate(context, builder, signature, arguments):
        _, address, index, half = arguments
        double = ir.VectorType(ir.DoubleType(), half.type.count)
        single = half.type != double
        wide = lambda value: ir.Constant(double, [value] * double.count)  # noqa: E731
        # half = k pi/2 + r with |r| <= pi/4, in double precision; pi/2 in two parts
        x = builder.fpext(half, double) if single else half
        k = call(builder, "floor", fused(builder, x, wide(2 / math.pi), wide(0.5)))
        r = fused(builder, k, wide(-math.pi / 2), x)
        r = fused(builder, k, wide(-6.123233995736766e-17), r)
        small = builder.fcmp_ordered("<", call(builder, "fabs", r), wide(1.0))
        r = builder.select(small, r, wide(math.nan))
        pairs = call(builder, "floor", builder.fmul(k, wide(0.5)))  # k = 2 pairs + (0 or 1)
        odd = builder.fcmp_ordered("!=", builder.fmul(pairs, wide(2.0)), k)
        fours = call(builder, "floor", builder.fmul(pairs, wide(0.5)))
        sign = fused(builder, fused(builder, fours, wide(-2.0), pairs), wide(-2.0), wide(1.0))  # (-1)^pairs
        r, sign = (builder.fptrunc(value, half.type) if single else value for value in (r, sign))
        terms = [(-1) ** (n // 2) / math.factorial(n) for n in range(12 if single else 18)]  # of Taylor's series
        *terms, cosine, sine = [ir.Constant(half.type, [term] * double.count) for term in terms]
        square = builder.fmul(r, r)
        while terms:
            sine = fused(builder, sine, square, terms.pop())
            cosine = fused(builder, cosine, square, terms.pop())
        sine = builder.fmul(sine, r)
        c = builder.fmul(sign, builder.select(odd, builder.fneg(sine), cosine))
        s = builder.fmul(sign, builder.select(odd, cosine, sine))
        tiny = ir.Constant(half.type, [1e-12 if single else 1e-20] * double.count)  # keeps the tangent finite
        c = builder.select(builder.fcmp_ordered("==", c, ir.Constant(half.type, [0.0] * double.count)), tiny, c)
        t = builder.fdiv(s, c)
        for n, value in enumerate((c, t, builder.fneg(t))):
            at = builder.add(index, ir.Constant(index.type, n))
            builder.store(value, pointer(builder, address, at, value.type)).align = 4
        return context.get_dummy_value()

    return types.void(kind, address, index, half), generate
