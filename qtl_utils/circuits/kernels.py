"""The CPU kernels of `statevector`, compiled by Numba and kept on disk: SIMD over blocks of samples.

A block holds as many samples as a vector register has lanes, one sample a lane, whatever its replica; an amplitude is
one vector. A pass applies up to three rotations to groups of 2, 4 or 8 amplitudes while they are in registers. Lanes
never mix, so that a sample's numbers do not depend on its neighbours.
"""

from functools import reduce

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from qtl_utils.circuits.vectors import (
    add,
    fma,
    fused,
    get,
    integer,
    lanes,
    load,
    mul,
    number,
    parity,
    pointer,
    put,
    real,
    splat,
    store,
    store_turn,
)

INPUT = 1
WEIGHT = 2  # where an angle comes from: as in `program`
PASS_WIDTH = 21  # integers that describe a pass
APART = 37  # vectors between the two states of backward, lest their numbers compete for the same places in the cache
CHUNK = 256  # amplitudes summed up before they are added to the total: keeps float32 sums accurate


# ---- a pass: up to three rotations while the amplitudes they mix are in registers -----------------------------------


class _Pass:
    """Emits the code of a pass of `size` rotations over groups of 2^size amplitudes.

    Rotation a turns the pairs (u, v) of members m and m | 1 << a of a group: u' = u + t v, v' = v - t u, with t, the
    tangent of half the angle, negated where an odd number of the bits z is set in the index of u. At the end of the
    pass all are multiplied by the cosines. Coefficients are three vectors a rotation: cosine, t and -t.

    In a `plain` pass z of a rotation meets its own x only. Every group then has a member without any odd number of
    bits z, from which all signs are +.
    """

    def __init__(self, builder, vector, size, plain, row, coefficients):
        self.builder = builder
        self.vector = vector
        self.size = size
        self.plain = plain
        self.coefficients = coefficients
        word = lambda position: builder.load(self._at(row, self.int(position), ir.IntType(64)))  # noqa: E731
        x, self.z, self.pivots = ([word(3 + 3 * part + a) for a in range(size)] for part in range(3))
        self.first = builder.mul(word(2), self.int(3))  # the first rotation's vectors
        self.below = [builder.sub(builder.shl(self.int(1), p), self.int(1)) for p in self.pivots]
        flips = [[word(12 + 3 * a + b) for b in range(size)] for a in range(size)]
        self.offsets = [self.xor(x[b] for b in self.bits(m)) for m in range(2**size)]
        # whether z of rotation a changes the sign from member 0 to member m
        self.flips = [[self.xor(flips[a][b] for b in self.bits(m)) for m in range(2**size)] for a in range(size)]
        self.cosines = [self.coefficient(a, self.int(0)) for a in range(size)]
        self.tangents = [self.coefficient(a, self.int(1)) for a in range(size)]
        self.scale = reduce(builder.fmul, self.cosines)

    def int(self, value):
        return ir.Constant(ir.IntType(64), value)

    def bits(self, m):
        return [b for b in range(self.size) if m >> b & 1]

    def xor(self, values):
        found = self.int(0)
        for value in values:
            found = self.builder.xor(found, value)
        return found

    def _at(self, address, index, kind):
        return pointer(self.builder, address, index, kind)

    def load(self, address, index):
        value = self.builder.load(self._at(address, index, self.vector))
        value.align = 4
        return value

    def store(self, address, index, value):
        self.builder.store(value, self._at(address, index, self.vector)).align = 4

    def coefficient(self, a, which):
        return self.load(self.coefficients, self.builder.add(self.first, self.builder.add(self.int(3 * a), which)))

    def members(self, k):
        """The indices of group number k: k with zeros put in at the pivots, and what the rotations reach from there."""
        builder = self.builder
        for pivot, below in zip(self.pivots, self.below, strict=True):
            above = builder.shl(builder.lshr(k, pivot), builder.add(pivot, self.int(1)))
            k = builder.or_(above, builder.and_(k, below))
        if self.plain:  # the pivots are then bits of z, and set so that no z is met by an odd number of bits
            odd = [builder.shl(self.parity(builder.and_(k, z)), p) for z, p in zip(self.z, self.pivots, strict=True)]
            k = self.xor([k, *odd])
        return [builder.xor(k, offset) for offset in self.offsets]

    def parity(self, bits):
        return self.builder.and_(self.builder.ctpop(bits), self.int(1))

    def pairs(self, a, members):
        """The pairs that rotation a turns, with its tangent and the parity that tells the sign (None: +)."""
        if not self.plain:
            parity = self.parity(self.builder.and_(members[0], self.z[a]))
        for m in range(2**self.size):
            if m >> a & 1:
                continue
            if self.plain:
                yield m, m | 1 << a, self.tangents[a], None
            else:
                odd = self.builder.xor(parity, self.flips[a][m])
                yield m, m | 1 << a, self.coefficient(a, self.builder.add(odd, self.int(1))), odd

    def turn(self, values, m, n, t):
        u = values[m]
        v = values[n]
        values[m] = fused(self.builder, t, v, u)
        values[n] = fused(self.builder, self.builder.fneg(t), u, v)


@intrinsic(prefer_literal=True)
def turn_forward(context, kind, size, plain, state, coefficients, row, groups):
    """Applies the pass described by `row` to `state`."""
    variant = size.literal_value, plain.literal_value

    def generate(context, builder, signature, arguments):
        *_, state, coefficients, row, groups = arguments
        step = _Pass(builder, context.get_value_type(kind.vector), *variant, row, coefficients)
        with cgutils.for_range(builder, groups) as loop:
            members = step.members(loop.index)
            values = [step.load(state, i) for i in members]
            for a in range(step.size):
                for m, n, tangent, _ in step.pairs(a, members):
                    step.turn(values, m, n, tangent)
            for i, value in zip(members, values, strict=True):
                step.store(state, i, builder.fmul(step.scale, value))
        return context.get_dummy_value()

    return types.void(kind, size, plain, state, coefficients, row, groups), generate


@intrinsic(prefer_literal=True)
def turn_backward(context, kind, size, plain, state, other, coefficients, slopes, row, start, stop):
    """Undoes a pass on `state` and `other` = O state, and adds the rotations' derivatives of <O> to `slopes`.

    Two vectors before `slopes` are all +1 and all -1.
    """
    variant = size.literal_value, plain.literal_value

    def generate(context, builder, signature, arguments):
        *_, state, other, coefficients, slopes, row, start, stop = arguments
        vector = context.get_value_type(kind.vector)
        constant = lambda value: ir.Constant(vector, [value] * vector.count)  # noqa: E731
        step = _Pass(builder, vector, *variant, row, coefficients)
        sums = [cgutils.alloca_once(builder, vector) for _ in range(step.size)]
        for total in sums:
            builder.store(constant(0.0), total)
        with cgutils.for_range_slice(builder, start, stop, step.int(1)) as (k, _):
            members = step.members(k)
            values = [step.load(state, i) for i in members]
            others = [step.load(other, i) for i in members]
            for a in reversed(range(step.size)):
                total = builder.load(sums[a])
                for m, n, tangent, odd in step.pairs(a, members):
                    if odd is None:
                        total = fused(builder, others[m], values[n], total)
                        total = fused(builder, builder.fneg(others[n]), values[m], total)
                    else:
                        slope = builder.fmul(others[m], values[n])
                        slope = fused(builder, builder.fneg(others[n]), values[m], slope)
                        total = fused(builder, step.load(slopes, builder.sub(odd, step.int(2))), slope, total)
                    step.turn(values, m, n, builder.fneg(tangent))
                    step.turn(others, m, n, builder.fneg(tangent))
                builder.store(total, sums[a])
            for i, value, o in zip(members, values, others, strict=True):
                step.store(state, i, builder.fmul(step.scale, value))
                step.store(other, i, builder.fmul(step.scale, o))
        first = builder.load(pointer(builder, row, step.int(2), ir.IntType(64)))
        share = constant(1.0)
        for a in reversed(range(step.size)):  # in both states the cosines of what was undone before were still missing
            position = builder.add(first, step.int(a))
            total = builder.fmul(share, builder.load(sums[a]))
            step.store(slopes, position, builder.fadd(step.load(slopes, position), total))
            share = builder.fmul(share, builder.fmul(step.cosines[a], step.cosines[a]))
        return context.get_dummy_value()

    return types.void(kind, size, plain, state, other, coefficients, slopes, row, start, stop), generate


# ---- kernels: addresses are integers, indices count vectors or numbers ----------------------------------------------
#
# A block is as many samples as a vector has lanes, and the memory that belongs to them, in vectors (G rotations):
#
#   0                3 G        3 G + 2     4 G + 2     4 G + 6
#   | coefficients   | +1, -1   | slopes    | to spare  | amplitudes ...  |
#   | 3 a rotation   | signs    | 1 each    | 4         | 2^n_bits        |
#
# A schedule is described by one array of 64-bit integers, its header; these are the positions in it. Arrays are given
# by their addresses, and the amplitude by the bits of a float64.
(
    N_BITS,
    N_ROTATIONS,
    SOURCES,  # (G, 2): where the angle of a rotation comes from, and which element of it
    SHARES,  # (G, 2) float64: half the factor and half the offset of the angle
    N_WORDS,
    WORDS,  # (words, 3): x, z and sign, filled up to a multiple of four
    N_INPUTS,
    N_WEIGHTS,
    UNIFORM,  # index bits that start in an equal superposition
    PASSES,  # (passes, PASS_WIDTH)
    AMPLITUDE,  # of every state that the circuit starts in
    N_PASSES,
    VECTOR,  # bytes
    REACHED_WITH_INPUTS,  # the first pass that backward reaches where gradients of inputs are asked for
    REACHED_BY_WEIGHTS,  # and where those of weights alone are
) = range(15)


@njit(nogil=True)
def fill_mixed(kind, header, block, weights, row, rows, batch):
    """Coefficients of the weights for a block whose samples belong to several replicas; a vector that tells NaN.

    Angles of all replicas stand side by side while their cosines are computed: where the slopes will be.
    """
    n_rotations = integer(header, N_ROTATIONS)
    sources = integer(header, SOURCES)
    shares = integer(header, SHARES)
    n_weights = integer(header, N_WEIGHTS)
    width = lanes(kind)
    last = min(row + width, rows) - 1
    first = row // batch
    replicas = last // batch - first + 1
    packed = (3 * n_rotations + 2) * width
    spare = 4 * n_rotations + 2
    count = 0
    for g in range(n_rotations):
        if integer(sources, 2 * g) == WEIGHT:
            share = number(kind, real(shares, 2 * g))
            offset = number(kind, real(shares, 2 * g + 1))
            for r in range(replicas):
                angle = get(kind, weights, (first + r) * n_weights + integer(sources, 2 * g + 1))
                put(kind, block, packed + count, share * angle + offset)
                count += 1
    while count % width:
        put(kind, block, packed + count, number(kind, 0))
        count += 1
    zero = splat(kind, number(kind, 0))
    check = zero
    done = 0
    for g in range(n_rotations):
        if integer(sources, 2 * g) == WEIGHT:
            for r in range(replicas):
                if done % width == 0:
                    store_turn(kind, block, spare, load(kind, block, 3 * n_rotations + 2 + done // width))
                    check = fma(zero, load(kind, block, spare), check)
                at = spare * width + done % width
                cosine = get(kind, block, at)
                tangent = get(kind, block, at + width)
                end = min((first + r + 1) * batch - row, width)
                if r == replicas - 1:
                    end = width  # lanes without a sample too
                for lane in range(max((first + r) * batch - row, 0), end):
                    put(kind, block, 3 * g * width + lane, cosine)
                    put(kind, block, (3 * g + 1) * width + lane, tangent)
                    put(kind, block, (3 * g + 2) * width + lane, -tangent)
                done += 1
    return check


@njit(nogil=True)
def fill(kind, header, block, before, inputs, weights, row, rows, batch):
    """Computes the coefficients of the samples row, row + 1, ...; returns whether an angle is not finite.

    `before`: the block before this one, 0 for none, whose coefficients of the weights may serve again.
    """
    n_rotations = integer(header, N_ROTATIONS)
    sources = integer(header, SOURCES)
    shares = integer(header, SHARES)
    n_inputs = integer(header, N_INPUTS)
    n_weights = integer(header, N_WEIGHTS)
    width = lanes(kind)
    one_replica = row // batch == (min(row + width, rows) - 1) // batch
    if (row - width) // batch != row // batch:
        before = 0
    check = splat(kind, number(kind, 0))
    if not one_replica:
        check = fill_mixed(kind, header, block, weights, row, rows, batch)
    for g in range(n_rotations):
        source = integer(sources, 2 * g)
        index = integer(sources, 2 * g + 1)
        if source == WEIGHT and not one_replica:
            continue
        if source != INPUT and one_replica and before:
            if before != block:
                for k in range(3):
                    store(kind, block, 3 * g + k, load(kind, before, 3 * g + k))
            continue
        half = splat(kind, number(kind, real(shares, 2 * g + 1)))
        if source == WEIGHT and one_replica:
            share = splat(kind, number(kind, real(shares, 2 * g)))
            half = fma(share, splat(kind, get(kind, weights, row // batch * n_weights + index)), half)
        elif source == INPUT:
            for lane in range(width):
                if row + lane < rows:
                    put(kind, block, 3 * g * width + lane, get(kind, inputs, (row + lane) * n_inputs + index))
                else:  # no sample: whatever is finite
                    put(kind, block, 3 * g * width + lane, number(kind, 0))
            half = fma(splat(kind, number(kind, real(shares, 2 * g))), load(kind, block, 3 * g), half)
        store_turn(kind, block, 3 * g, half)
        check = fma(splat(kind, number(kind, 0)), load(kind, block, 3 * g), check)
    store(kind, block, 3 * n_rotations, check)
    bad = False
    for lane in range(width):
        bad |= get(kind, block, 3 * n_rotations * width + lane) != 0
    store(kind, block, 3 * n_rotations, splat(kind, number(kind, 1)))
    store(kind, block, 3 * n_rotations + 1, splat(kind, number(kind, -1)))
    return bad


@njit(nogil=True)
def evolve(kind, header, block, state):
    """Runs the circuit from its initial state."""
    n_bits = integer(header, N_BITS)
    passes = integer(header, PASSES)
    uniform = integer(header, UNIFORM)
    start = splat(kind, number(kind, real(header, AMPLITUDE)))
    nothing = splat(kind, number(kind, 0))
    for i in range(1 << n_bits):
        if i & ~uniform:
            store(kind, state, i, nothing)
        else:
            store(kind, state, i, start)
    for p in range(integer(header, N_PASSES)):
        row = passes + p * PASS_WIDTH * 8
        size = integer(row, 0)
        plain = integer(row, 1)
        groups = 1 << (n_bits - size)
        if size == 3 and plain:
            turn_forward(kind, 3, 1, state, block, row, groups)
        elif size == 3:
            turn_forward(kind, 3, 0, state, block, row, groups)
        elif size == 2 and plain:
            turn_forward(kind, 2, 1, state, block, row, groups)
        elif size == 2:
            turn_forward(kind, 2, 0, state, block, row, groups)
        else:
            turn_forward(kind, 1, 1, state, block, row, groups)


@njit(inline="always")
def word_x(words, k):
    return integer(words, 3 * k)


@njit(inline="always")
def word_z(words, k):
    return integer(words, 3 * k + 1)


@njit(nogil=True)
def measure(kind, header, signs, spare, state, out, row, rows):
    """Writes the values of all words for the samples of this block; takes four words at a time."""
    size = 1 << integer(header, N_BITS)
    n_words = integer(header, N_WORDS)
    words = integer(header, WORDS)
    width = lanes(kind)
    zero = splat(kind, number(kind, 0))
    for k in range(0, n_words, 4):
        z0 = word_z(words, k)
        z1 = word_z(words, k + 1)
        z2 = word_z(words, k + 2)
        z3 = word_z(words, k + 3)
        x0 = word_x(words, k)
        x1 = word_x(words, k + 1)
        x2 = word_x(words, k + 2)
        x3 = word_x(words, k + 3)
        a = zero
        b = zero
        c = zero
        d = zero
        for start in range(0, size, CHUNK):
            a_part = zero
            b_part = zero
            c_part = zero
            d_part = zero
            for i in range(start, min(start + CHUNK, size)):
                value = load(kind, state, i)
                a_part = fma(load(kind, signs, parity(i & z0)), mul(value, load(kind, state, i ^ x0)), a_part)
                b_part = fma(load(kind, signs, parity(i & z1)), mul(value, load(kind, state, i ^ x1)), b_part)
                c_part = fma(load(kind, signs, parity(i & z2)), mul(value, load(kind, state, i ^ x2)), c_part)
                d_part = fma(load(kind, signs, parity(i & z3)), mul(value, load(kind, state, i ^ x3)), d_part)
            a = add(a, a_part)
            b = add(b, b_part)
            c = add(c, c_part)
            d = add(d, d_part)
        store(kind, spare, 0, a)
        store(kind, spare, 1, b)
        store(kind, spare, 2, c)
        store(kind, spare, 3, d)
        for m in range(min(4, n_words - k)):
            sign = number(kind, integer(words, 3 * (k + m) + 2))
            for lane in range(min(width, rows - row)):
                put(kind, out, (row + lane) * n_words + k + m, sign * get(kind, spare, m * width + lane))


@njit(nogil=True)
def observe(kind, header, factors, kept, state, other, gradient, row, rows):
    """Copies `kept` to `state` and sets `other` to the weighted sum of the words, applied to it."""
    size = 1 << integer(header, N_BITS)
    n_words = integer(header, N_WORDS)
    words = integer(header, WORDS)
    width = lanes(kind)
    for k in range(0, n_words, 4):
        for m in range(4):
            sign = number(kind, integer(words, 3 * (k + m) + 2))  # 0 behind the last word
            for lane in range(width):
                value = sign
                if k + m < n_words:
                    value *= get(kind, gradient, min(row + lane, rows - 1) * n_words + k + m)
                put(kind, factors, 2 * m * width + lane, value)
                put(kind, factors, (2 * m + 1) * width + lane, -value)
        z0 = word_z(words, k)
        z1 = word_z(words, k + 1)
        z2 = word_z(words, k + 2)
        z3 = word_z(words, k + 3)
        x0 = word_x(words, k)
        x1 = word_x(words, k + 1)
        x2 = word_x(words, k + 2)
        x3 = word_x(words, k + 3)
        for i in range(size):
            total = mul(load(kind, factors, parity(i & z0)), load(kind, kept, i ^ x0))
            total = fma(load(kind, factors, 2 + parity(i & z1)), load(kind, kept, i ^ x1), total)
            more = mul(load(kind, factors, 4 + parity(i & z2)), load(kind, kept, i ^ x2))
            more = fma(load(kind, factors, 6 + parity(i & z3)), load(kind, kept, i ^ x3), more)
            if k:
                total = add(total, load(kind, other, i))
            store(kind, other, i, add(total, more))
    if state != kept:
        for i in range(size):
            store(kind, state, i, load(kind, kept, i))


@njit(nogil=True)
def scatter(kind, header, slopes, of_inputs, parts, row, rows, batch):
    """Writes a block's derivatives to inputs' and, for every replica, to the row of its first sample in this block."""
    n_rotations = integer(header, N_ROTATIONS)
    sources = integer(header, SOURCES)
    shares = integer(header, SHARES)
    n_inputs = integer(header, N_INPUTS)
    n_weights = integer(header, N_WEIGHTS)
    last = min(row + lanes(kind), rows)
    first = row
    while first < last:  # the samples of one replica
        end = min((first // batch + 1) * batch, last)
        for index in range(n_weights if parts else 0):
            put(kind, parts, first * n_weights + index, number(kind, 0))
        for at in range(first * n_inputs, end * n_inputs if of_inputs else 0):
            put(kind, of_inputs, at, number(kind, 0))
        for g in range(n_rotations):
            source = integer(sources, 2 * g)
            index = integer(sources, 2 * g + 1)
            factor = number(kind, 2 * real(shares, 2 * g))
            at = g * lanes(kind) - row
            if source == INPUT and of_inputs:
                for r in range(first, end):
                    value = get(kind, of_inputs, r * n_inputs + index) + factor * get(kind, slopes, at + r)
                    put(kind, of_inputs, r * n_inputs + index, value)
            elif source == WEIGHT and parts:
                total = number(kind, 0)
                for r in range(first, end):
                    total += get(kind, slopes, at + r)
                at = first * n_weights + index
                put(kind, parts, at, get(kind, parts, at) + factor * total)
        first = end


@njit(nogil=True, cache=True)
def forward_blocks(kind, header, first, last, stride, blocks, inputs, weights, rows, batch, out):
    """Runs blocks first ... last - 1, of which b uses the memory at `blocks` + b * stride bytes.

    Returns how many of them had an angle that is not finite.
    """
    n_rotations = integer(header, N_ROTATIONS)
    width = lanes(kind)
    bad = 0
    for b in range(first, last):
        block = blocks + b * stride
        vector = integer(header, VECTOR)
        signs = block + 3 * n_rotations * vector
        spare = block + (4 * n_rotations + 2) * vector
        state = spare + 4 * vector
        bad += fill(kind, header, block, block - stride if b > first else 0, inputs, weights, b * width, rows, batch)
        evolve(kind, header, block, state)
        measure(kind, header, signs, spare, state, out, b * width, rows)
    return bad


@njit(nogil=True, cache=True)
def backward_blocks(
    kind, header, first, last, stride, blocks, scratch, inputs, weights, rows, batch, gradient, of_inputs, parts
):
    """The adjoint method on blocks first ... last - 1.

    `stride` 0: `blocks` is the memory of one block, in which the circuit is run again; else it holds what
    forward_blocks left. `scratch` has room for `other`, another state and two factors a word.
    """
    n_bits = integer(header, N_BITS)
    n_rotations = integer(header, N_ROTATIONS)
    vector = integer(header, VECTOR)
    width = lanes(kind)
    least = integer(
        header, REACHED_WITH_INPUTS if of_inputs else REACHED_BY_WEIGHTS
    )  # the passes before it turn by nothing whose slope is asked for
    passes = integer(header, PASSES)
    n_passes = integer(header, N_PASSES)
    other = scratch
    spare = scratch + ((1 << n_bits) + APART) * vector
    factors = spare + (vector << n_bits)
    for b in range(first, last):
        block = blocks + b * stride
        slopes = block + (3 * n_rotations + 2) * vector
        kept = block + (4 * n_rotations + 6) * vector
        state = spare
        if stride == 0:
            state = kept
            fill(kind, header, block, block - stride if b > first else 0, inputs, weights, b * width, rows, batch)
            evolve(kind, header, block, state)
        for g in range(n_rotations):
            store(kind, slopes, g, splat(kind, number(kind, 0)))
        observe(kind, header, factors, kept, state, other, gradient, b * width, rows)
        for p in range(n_passes - 1, least - 1, -1):
            row = passes + p * PASS_WIDTH * 8
            size = integer(row, 0)
            plain = integer(row, 1)
            groups = 1 << (n_bits - size)
            for start in range(0, groups, CHUNK):
                stop = min(start + CHUNK, groups)
                if size == 3 and plain:
                    turn_backward(kind, 3, 1, state, other, block, slopes, row, start, stop)
                elif size == 3:
                    turn_backward(kind, 3, 0, state, other, block, slopes, row, start, stop)
                elif size == 2 and plain:
                    turn_backward(kind, 2, 1, state, other, block, slopes, row, start, stop)
                elif size == 2:
                    turn_backward(kind, 2, 0, state, other, block, slopes, row, start, stop)
                else:
                    turn_backward(kind, 1, 1, state, other, block, slopes, row, start, stop)
        scatter(kind, header, slopes, of_inputs, parts, b * width, rows, batch)


@njit(nogil=True, cache=True)
def add_up(kind, parts, total, replicas, batch, n_weights):
    """Sums the rows of `parts` that `scatter` wrote, replica by replica and in a fixed order."""
    width = lanes(kind)
    for replica in range(replicas):
        for index in range(n_weights):
            put(kind, total, replica * n_weights + index, number(kind, 0))
        row = replica * batch
        end = (replica + 1) * batch
        while row < end:
            for index in range(n_weights):
                at = replica * n_weights + index
                put(kind, total, at, get(kind, total, at) + get(kind, parts, row * n_weights + index))
            row += width - row % width
