"""Whole training steps of heads in one kernel: gather, forward, backward and update, compiled by Numba.

A head is a chain of operations between values. Value 0 are rows of a table of features; the others lie in memory that
belongs to a thread, (samples, width) each, and so do their gradients. A few replicas, a group, go through their steps
alone, so that groups can be shared out over threads. Within a group every replica has rows, weights and an optimiser of
its own, and its numbers do not depend on its neighbours.
"""

import math

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from qtl_utils.circuits.kernels import add_up, backward_blocks, forward_blocks
from qtl_utils.circuits.vectors import (
    call,
    filled,
    fma,
    fused,
    get,
    integer,
    item_bytes,
    lanes,
    load,
    mul,
    number,
    pointer,
    put,
    put_integer,
    real,
    splat,
    store,
    sum_of,
    tanh,
)

# ---- what describes a head: arrays of integers, given by their addresses, and the positions in them ------------------

(  # of an operation
    OPERATION,  # one of the six below
    SOURCE,  # the value it reads,
    WIDTH,  # numbers of it a sample
    TARGET,  # the value it writes,
    OUT,  # numbers of it a sample
    WEIGHT,  # where its weights begin among a replica's parameters
    BIAS,  # and its bias; -1: it has none
    TRAINED,  # whether its weights learn,
    BIAS_TRAINED,
    RATE,  # and with which learning rate: 0 classical, 1 quantum
    FUNCTION,  # of ELEMENTWISE: which one
    DOWN,  # whether the gradient of what it reads is asked for
    INNER,  # of BESIDE: the second value it reads
    HEADER,  # of CIRCUIT: address of its schedule, as circuits.kernels reads it,
    N_WEIGHTS,
    STATES,  # where in the memory of a thread its states lie
    STRIDE,  # and bytes of a block of them; 0: backward runs the circuit again
) = range(17)
LINEAR, ELEMENTWISE, CIRCUIT, PRODUCTS, BRANCH, BESIDE = range(6)
IDENTITY, TANH, HALF_PI_TANH, ATAN, RELU, GELU, SILU, SIGMOID = range(8)
N_FIELDS = 17

(  # of a head
    OPERATIONS,  # address of (operations, N_FIELDS)
    N_OPERATIONS,
    VALUES,  # address of (values, 2): where in the memory of a thread a value begins, and its gradient
    RESULT,  # the value that holds the logits
    CLASSES,
    N_PARAMETERS,  # of a replica, with what fills up a vector behind each of them
    STRIDE_OF_REPLICA,  # numbers from the parameters of one replica to those of the next
    AT_ONCE,  # samples that are looked at together
    SUMS,  # where in the memory of a thread there is room for 8 vectors,
    SAMPLES,  # for the addresses of a group's rows of the table,
    OTHERS,  # and of another value,
    ANGLES,  # for the angles of a group's circuits,
    SLOPES,  # their gradients
    PARTS,  # by sample,
    SCRATCH,  # and for what the backward pass of a circuit needs
) = range(15)

# An update: m = M_OLD m + M_NEW g and v = V_OLD v + V_NEW g^2, then p -= rate SCALE m / (ROOT sqrt(v) + EPSILON);
# without the quotient where it is not ADAPTIVE, and not at all where it RESTS. Eight numbers a step and a rate.
M_OLD, M_NEW, V_OLD, V_NEW, SCALE, ROOT, ADAPTIVE, RESTS = range(8)
N_FACTORS = 8
EPSILON = 1e-8


# ---- linear layers --------------------------------------------------------------------------------------------------


@intrinsic
def dots(context, kind, x0, x1, x2, x3, w0, w1, count, sums):
    """The products of 4 samples with 2 rows of weights, all given by addresses, over `count` vectors: 8 numbers."""

    def generate(context, builder, signature, arguments):
        *rows, count, sums = arguments[1:]
        vector = context.get_value_type(kind.vector)
        zero = ir.Constant(vector, [0.0] * vector.count)
        pairs = [(n, k) for n in range(4) for k in (4, 5)]
        found = [cgutils.alloca_once_value(builder, zero) for _ in pairs]
        with cgutils.for_range(builder, count) as loop:
            values = [builder.load(pointer(builder, row, loop.index, vector)) for row in rows]
            for value in values:
                value.align = 4
            for (n, k), place in zip(pairs, found, strict=True):
                builder.store(fused(builder, values[n], values[k], builder.load(place)), place)
        for n, place in enumerate(found):
            at = pointer(builder, sums, ir.Constant(ir.IntType(64), n), vector.element)
            builder.store(sum_of(builder, builder.load(place)), at)
        return context.get_dummy_value()

    return types.void(kind, x0, x1, x2, x3, w0, w1, count, sums), generate


@intrinsic(prefer_literal=True)
def learn(context, kind, size, samples, n_samples, count, slopes, n_out, state, apart, factors, rate):
    """Moves `size` rows of weights, of `count` vectors, by their gradients: sums over samples of slope times sample.

    samples: address of their addresses; slopes: address of (n_samples, n_out), of which the first `size` columns count;
    state: addresses of the first row of weights and of its two moments, rows lying `apart` bytes apart.
    """
    rows = range(size.literal_value)
    whole = ir.IntType(64)

    def generate(context, builder, signature, arguments):
        *_, samples, n_samples, count, slopes, n_out, state, apart, factors, rate = arguments
        p, m, v = cgutils.unpack_tuple(builder, state, 3)
        vector = context.get_value_type(kind.vector)

        def constant(value):
            narrow = value if vector.element == value.type else builder.fptrunc(value, vector.element)
            return filled(builder, narrow, vector)

        def factor(k):
            return builder.load(pointer(builder, factors, ir.Constant(whole, k), ir.DoubleType()))

        m_old, m_new, v_old, v_new, roots = [constant(factor(k)) for k in (M_OLD, M_NEW, V_OLD, V_NEW, ROOT)]
        scale = constant(builder.fneg(builder.fmul(rate, factor(SCALE))))
        adaptive = builder.fcmp_unordered("!=", factor(ADAPTIVE), ir.Constant(ir.DoubleType(), 0.0))
        epsilon = ir.Constant(vector, [EPSILON] * vector.count)
        zero = ir.Constant(vector, [0.0] * vector.count)
        sums = [cgutils.alloca_once(builder, vector) for _ in rows]

        def move(place, index, old, factor, value):  # old * what is there + factor * value
            at = pointer(builder, place, index, vector)
            before = builder.load(at)
            before.align = 4
            after = fused(builder, old, before, builder.fmul(factor, value))
            builder.store(after, at).align = 4
            return after

        with cgutils.for_range(builder, count) as columns:
            for place in sums:
                builder.store(zero, place)
            with cgutils.for_range(builder, n_samples) as loop:
                row = builder.load(pointer(builder, samples, loop.index, whole))
                x = builder.load(pointer(builder, row, columns.index, vector))
                x.align = 4
                start = builder.mul(loop.index, n_out)
                for n, place in zip(rows, sums, strict=True):
                    at = builder.add(start, ir.Constant(whole, n))
                    slope = builder.load(pointer(builder, slopes, at, vector.element))
                    builder.store(fused(builder, x, filled(builder, slope, vector), builder.load(place)), place)
            for n, place in zip(rows, sums, strict=True):
                g = builder.load(place)
                down = builder.mul(ir.Constant(whole, n), apart)
                p_row, m_row, v_row = (builder.add(first, down) for first in (p, m, v))
                moment = move(m_row, columns.index, m_old, m_new, g)
                step = cgutils.alloca_once_value(builder, moment)
                with builder.if_then(adaptive):
                    square = move(v_row, columns.index, v_old, v_new, builder.fmul(g, g))
                    root = fused(builder, roots, call(builder, "sqrt", square), epsilon)
                    builder.store(builder.fdiv(moment, root), step)
                move(p_row, columns.index, ir.Constant(vector, [1.0] * vector.count), scale, builder.load(step))
        return context.get_dummy_value()

    given = kind, size, samples, n_samples, count, slopes, n_out, state, apart, factors, rate
    return types.void(*given), generate


@njit(nogil=True)
def linear(kind, samples, n_samples, width, weight, bias, out, n_out, sums):
    """out (n_samples, n_out) = samples weight^T + bias, 4 samples and 2 outputs at a time.

    samples: address of their addresses; weight (n_out, width); bias: 0 for none; sums: room for 8 numbers.
    """
    bytes_of_row = width * item_bytes(kind)
    whole = width // lanes(kind)
    for i in range(0, n_samples, 4):
        last = n_samples - 1
        x0 = integer(samples, i)
        x1 = integer(samples, min(i + 1, last))
        x2 = integer(samples, min(i + 2, last))
        x3 = integer(samples, min(i + 3, last))
        for h in range(0, n_out, 2):
            w0 = weight + h * bytes_of_row
            w1 = weight + min(h + 1, n_out - 1) * bytes_of_row
            dots(kind, x0, x1, x2, x3, w0, w1, whole, sums)
            for n in range(min(4, n_samples - i)):
                x = integer(samples, i + n)
                for k in range(min(2, n_out - h)):
                    value = get(kind, sums, 2 * n + k)
                    row = weight + (h + k) * bytes_of_row
                    for f in range(whole * lanes(kind), width):
                        value += get(kind, x, f) * get(kind, row, f)
                    if bias:
                        value += get(kind, bias, h + k)
                    put(kind, out, (i + n) * n_out + h + k, value)


@njit(nogil=True)
def linear_down(kind, slopes, n_samples, n_out, weight, width, out):
    """out (n_samples, width) = slopes (n_samples, n_out) weight."""
    bytes_of_row = width * item_bytes(kind)
    whole = width // lanes(kind)
    for i in range(n_samples):
        row = out + i * bytes_of_row
        for f in range(whole):
            value = splat(kind, number(kind, 0))
            for h in range(n_out):
                slope = splat(kind, get(kind, slopes, i * n_out + h))
                value = fma(slope, load(kind, weight + h * bytes_of_row, f), value)
            store(kind, row, f, value)
        for f in range(whole * lanes(kind), width):
            one = number(kind, 0)
            for h in range(n_out):
                one += get(kind, slopes, i * n_out + h) * get(kind, weight, h * width + f)
            put(kind, row, f, one)


# ---- updates of parameters p with the moments m and v ----------------------------------------------------------------


@njit(nogil=True, inline="always")
def update_one(kind, p, m, v, index, g, factors, rate):
    """The same for the single number `index`."""
    moment = number(kind, real(factors, M_OLD)) * get(kind, m, index) + number(kind, real(factors, M_NEW)) * g
    put(kind, m, index, moment)
    if real(factors, ADAPTIVE) != 0:
        square = number(kind, real(factors, V_OLD)) * get(kind, v, index) + number(kind, real(factors, V_NEW)) * (g * g)
        put(kind, v, index, square)
        moment /= number(kind, real(factors, ROOT)) * number(kind, math.sqrt(square)) + number(kind, EPSILON)
    put(kind, p, index, get(kind, p, index) - number(kind, rate * real(factors, SCALE)) * moment)


@njit(nogil=True)
def linear_update(kind, samples, n_samples, width, slopes, n_out, p, m, v, factors, rate):
    """Moves weights (n_out, width) by their gradient, sums over samples of slope times sample, 4 rows at a time."""
    whole = width // lanes(kind)
    apart = width * item_bytes(kind)
    h = 0
    while h < n_out:
        from_here = slopes + h * item_bytes(kind)
        down = h * apart
        state = p + down, m + down, v + down
        left = n_out - h
        if left >= 4:
            learn(kind, 4, samples, n_samples, whole, from_here, n_out, state, apart, factors, rate)
            h += 4
        elif left >= 2:
            learn(kind, 2, samples, n_samples, whole, from_here, n_out, state, apart, factors, rate)
            h += 2
        else:
            learn(kind, 1, samples, n_samples, whole, from_here, n_out, state, apart, factors, rate)
            h += 1
    for h in range(n_out):
        for f in range(whole * lanes(kind), width):
            g = number(kind, 0)
            for i in range(n_samples):
                g += get(kind, slopes, i * n_out + h) * get(kind, integer(samples, i), f)
            update_one(kind, p, m, v, h * width + f, g, factors, rate)


@njit(nogil=True)
def bias_update(kind, slopes, n_samples, n_out, p, m, v, factors, rate):
    for h in range(n_out):
        g = number(kind, 0)
        for i in range(n_samples):
            g += get(kind, slopes, i * n_out + h)
        update_one(kind, p, m, v, h, g, factors, rate)


# ---- functions of single numbers ------------------------------------------------------------------------------------


@njit(nogil=True)
def elementwise(kind, function, x, out, count):
    """out = function(x), `count` numbers; both have room for whole vectors."""
    if function in (TANH, HALF_PI_TANH):
        scale = splat(kind, number(kind, 1.0 if function == TANH else math.pi / 2))
        for i in range(-(-count // lanes(kind))):
            store(kind, out, i, mul(scale, tanh(kind, load(kind, x, i))))
        return
    for i in range(count):
        a = get(kind, x, i)
        value = a
        if function == ATAN:
            value = number(kind, math.atan(a))
        elif function == RELU:
            value = a if a > 0 or a != a else number(kind, 0)
        elif function == GELU:
            value = number(kind, 0.5 * a * (1 + math.erf(a * math.sqrt(0.5))))
        elif function == SILU:
            value = number(kind, a / (1 + math.exp(-a)))
        elif function == SIGMOID:
            value = number(kind, 1 / (1 + math.exp(-a)))
        put(kind, out, i, value)


@njit(nogil=True)
def elementwise_down(kind, function, x, y, slopes, out, count):
    """out = slopes times the derivative at x, where the function is y."""
    for i in range(count):
        a = get(kind, x, i)
        b = get(kind, y, i)
        slope = 1.0
        if function == TANH:
            slope = 1 - b * b
        elif function == HALF_PI_TANH:
            slope = math.pi / 2 - b * b * (2 / math.pi)
        elif function == ATAN:
            slope = 1 / (1 + a * a)
        elif function == RELU:
            slope = 1.0 if b > 0 else 0.0
        elif function == GELU:
            slope = 0.5 * (1 + math.erf(a * math.sqrt(0.5))) + a * math.exp(-0.5 * a * a) / math.sqrt(math.tau)
        elif function == SILU:
            part = 1 / (1 + math.exp(-a))
            slope = part * (1 + a * (1 - part))
        elif function == SIGMOID:
            slope = b * (1 - b)
        put(kind, out, i, number(kind, slope) * get(kind, slopes, i))


@njit(nogil=True)
def products(kind, x, n_samples, width, out, n_out):
    """Products of one of (1, cos, sin) for each of `width` angles, (n_samples, 3^width), the first angle slowest."""
    for i in range(n_samples):
        row = i * n_out
        put(kind, out, row, number(kind, 1))
        size = 1
        for n in range(width):
            a = get(kind, x, i * width + n)
            c = number(kind, math.cos(a))
            s = number(kind, math.sin(a))
            for j in range(size - 1, -1, -1):
                value = get(kind, out, row + j)
                put(kind, out, row + 3 * j, value)
                put(kind, out, row + 3 * j + 1, value * c)
                put(kind, out, row + 3 * j + 2, value * s)
            size *= 3


@njit(nogil=True)
def products_down(kind, x, y, n_samples, width, slopes, n_out, out):
    """The gradient of the angles, from the last to the first; `slopes` is summed up over the angles done with."""
    for i in range(n_samples):
        row = i * n_out
        size = n_out
        for n in range(width - 1, -1, -1):
            size //= 3
            a = get(kind, x, i * width + n)
            c = number(kind, math.cos(a))
            s = number(kind, math.sin(a))
            value = number(kind, 0)
            for j in range(size):
                whole = get(kind, slopes, row + 3 * j)
                of_cosine = get(kind, slopes, row + 3 * j + 1)
                of_sine = get(kind, slopes, row + 3 * j + 2)
                before = get(kind, y, row + j * (n_out // size))  # the product of the angles before this one
                value += before * (c * of_sine - s * of_cosine)
                put(kind, slopes, row + j, whole + c * of_cosine + s * of_sine)
            put(kind, out, i * width + n, value)


@njit(nogil=True)
def error(kind, squared, logits, classes, target, share, slopes):
    """The loss of one sample and whether it is right (1.0); the gradient times `share` goes to `slopes`.

    squared: the mean squared distance of the logits to 1 for the class and 0 for others; else the cross-entropy.
    target -1: no sample. slopes 0: no gradient is asked for.
    """
    best = 0
    most = get(kind, logits, 0)
    for k in range(1, classes):
        value = get(kind, logits, k)
        if value > most or (value != value and most == most):  # the first NaN counts as the largest, as in torch
            best = k
            most = value
    right = 1.0 if best == target else 0.0
    if squared:
        total = number(kind, 0)
        for k in range(classes):
            apart = get(kind, logits, k) - number(kind, 1 if k == target else 0)
            total += apart * apart
            if slopes:
                put(kind, slopes, k, 2 * apart / number(kind, classes) * share if target >= 0 else number(kind, 0))
        return (float(total / number(kind, classes)), right) if target >= 0 else (0.0, 0.0)
    together = number(kind, 0)
    for k in range(classes):
        together += number(kind, math.exp(get(kind, logits, k) - most))
    for k in range(classes if slopes else 0):
        part = number(kind, math.exp(get(kind, logits, k) - most)) / together
        if k == target:
            part -= number(kind, 1)
        put(kind, slopes, k, part * share if target >= 0 else number(kind, 0))
    if target >= 0:
        loss = number(kind, math.log(together)) - (get(kind, logits, target) - most)
        return float(loss), right
    return 0.0, 0.0


# ---- a head, forward and backward: replicas with `batch` samples each -----------------------------------------------


@njit(nogil=True)
def address_rows(samples, first, count, step):
    """The addresses of `count` rows one behind the other."""
    for i in range(count):
        put_integer(samples, i, first + i * step)


@njit(nogil=True)
def gather_angles(kind, parameters, stride, replicas, weight, n_weights, out):
    for r in range(replicas):
        for k in range(n_weights):
            put(kind, out, r * n_weights + k, get(kind, parameters + r * stride, weight + k))


@njit(nogil=True)
def forward(kind, head, memory, parameters, replicas, batch, training):
    """Runs a head for the samples whose addresses lie at SAMPLES; returns whether an angle is not finite."""
    size = item_bytes(kind)
    stride = integer(head, STRIDE_OF_REPLICA) * size
    values = integer(head, VALUES)
    sums = memory + integer(head, SUMS)
    n = replicas * batch
    bad = 0
    for k in range(integer(head, N_OPERATIONS)):
        row = integer(head, OPERATIONS) + 8 * k * N_FIELDS
        what = integer(row, OPERATION)
        source = integer(row, SOURCE)
        width = integer(row, WIDTH)
        n_out = integer(row, OUT)
        x = memory + integer(values, 2 * source)
        y = memory + integer(values, 2 * integer(row, TARGET))
        if what == LINEAR:
            samples = memory + integer(head, SAMPLES)
            if source:
                samples = memory + integer(head, OTHERS)
                address_rows(samples, x, n, width * size)
            for r in range(replicas):
                weights = parameters + r * stride
                bias = 0
                if integer(row, BIAS) >= 0:
                    bias = weights + integer(row, BIAS) * size
                weights += integer(row, WEIGHT) * size
                out = y + r * batch * n_out * size
                linear(kind, samples + 8 * r * batch, batch, width, weights, bias, out, n_out, sums)
        elif what == ELEMENTWISE:
            elementwise(kind, integer(row, FUNCTION), x, y, n * width)
        elif what == CIRCUIT:
            angles = memory + integer(head, ANGLES)
            gather_angles(kind, parameters, stride, replicas, integer(row, WEIGHT), integer(row, N_WEIGHTS), angles)
            blocks = -(-n // lanes(kind))
            states = memory + integer(row, STATES)
            apart = integer(row, STRIDE) if training else 0
            bad += forward_blocks(kind, integer(row, HEADER), 0, blocks, apart, states, x, angles, n, batch, y)
        elif what == PRODUCTS:
            products(kind, x, n, width, y, n_out)
        elif what == BESIDE:
            inner = memory + integer(values, 2 * integer(row, INNER))
            for i in range(n):
                first = x + i * width * size if source else integer(memory + integer(head, SAMPLES), i)
                for f in range(width):
                    put(kind, y, i * n_out + f, get(kind, first, f))
                for f in range(n_out - width):
                    put(kind, y, i * n_out + width + f, get(kind, inner, i * (n_out - width) + f))
    return bad


@njit(nogil=True)
def backward(kind, head, memory, parameters, m, v, replicas, batch, factors, rates):
    """Undoes `forward` from the gradient of its result, and moves every parameter as soon as its gradient is known."""
    size = item_bytes(kind)
    stride = integer(head, STRIDE_OF_REPLICA) * size
    values = integer(head, VALUES)
    n = replicas * batch
    for k in range(integer(head, N_OPERATIONS) - 1, -1, -1):
        row = integer(head, OPERATIONS) + 8 * k * N_FIELDS
        what = integer(row, OPERATION)
        source = integer(row, SOURCE)
        width = integer(row, WIDTH)
        n_out = integer(row, OUT)
        down = integer(row, DOWN)
        x = memory + integer(values, 2 * source)
        below = memory + integer(values, 2 * source + 1)
        y = memory + integer(values, 2 * integer(row, TARGET))
        above = memory + integer(values, 2 * integer(row, TARGET) + 1)
        kept = integer(row, RATE)
        of_step = factors + 8 * kept * N_FACTORS
        learns = real(of_step, RESTS) == 0
        if what == LINEAR:
            samples = memory + integer(head, SAMPLES)
            if source:
                samples = memory + integer(head, OTHERS)
                address_rows(samples, x, n, width * size)
            for r in range(replicas):
                slopes = above + r * batch * n_out * size
                weight = r * stride + integer(row, WEIGHT) * size
                bias = r * stride + integer(row, BIAS) * size
                rate = real(rates, 2 * r + kept)
                if down:
                    linear_down(
                        kind, slopes, batch, n_out, parameters + weight, width, below + r * batch * width * size
                    )
                if learns and integer(row, TRAINED):
                    mine = samples + 8 * r * batch
                    state = parameters + weight, m + weight, v + weight
                    linear_update(kind, mine, batch, width, slopes, n_out, *state, of_step, rate)
                if learns and integer(row, BIAS_TRAINED):
                    state = parameters + bias, m + bias, v + bias
                    bias_update(kind, slopes, batch, n_out, *state, of_step, rate)
        elif what == ELEMENTWISE:
            if down:
                elementwise_down(kind, integer(row, FUNCTION), x, y, above, below, n * width)
        elif what == CIRCUIT:
            n_weights = integer(row, N_WEIGHTS)
            angles = memory + integer(head, ANGLES)
            gather_angles(kind, parameters, stride, replicas, integer(row, WEIGHT), n_weights, angles)
            trained = learns and integer(row, TRAINED)
            parts = memory + integer(head, PARTS) if trained else 0
            of_inputs = below if down else 0
            blocks = -(-n // lanes(kind))
            place = integer(row, STRIDE), memory + integer(row, STATES), memory + integer(head, SCRATCH)
            backward_blocks(kind, integer(row, HEADER), 0, blocks, *place, x, angles, n, batch, above, of_inputs, parts)
            if trained:
                slopes = memory + integer(head, SLOPES)
                add_up(kind, parts, slopes, replicas, batch, n_weights)
                for r in range(replicas):
                    weight = r * stride + integer(row, WEIGHT) * size
                    rate = real(rates, 2 * r + kept)
                    state = parameters + weight, m + weight, v + weight
                    bias_update(kind, slopes + r * n_weights * size, 1, n_weights, *state, of_step, rate)
        elif what == PRODUCTS:
            products_down(kind, x, y, n, width, above, n_out, below)
        elif what == BESIDE:
            inner = memory + integer(values, 2 * integer(row, INNER) + 1)
            for i in range(n):
                for f in range(n_out - width):
                    put(kind, inner, i * (n_out - width) + f, get(kind, above, i * n_out + width + f))
        elif what == BRANCH and down:  # n_out: of the value that holds this one and another side by side
            for i in range(n):
                for f in range(width):
                    value = get(kind, below, i * width + f) + get(kind, above, i * n_out + f)
                    put(kind, below, i * width + f, value)


@njit(nogil=True)
def look(kind, head, memory, table, row_bytes, index, labels, first_row, parameters, squared):
    """Sums of loss and right answers over the samples `index` of one replica, and whether an angle was not finite.

    Samples of -1 are none; those behind the first of them are not looked at.
    """
    classes = integer(head, CLASSES)
    samples = memory + integer(head, SAMPLES)
    logits = memory + integer(integer(head, VALUES), 2 * integer(head, RESULT))
    at_once = integer(head, AT_ONCE)
    losses = 0.0
    rights = 0.0
    bad = 0
    start = 0
    while start < len(index) and index[start] >= 0:
        count = 0
        while count < at_once and start + count < len(index) and index[start + count] >= 0:
            put_integer(samples, count, table + (first_row + index[start + count]) * row_bytes)
            count += 1
        bad += forward(kind, head, memory, parameters, 1, count, False)
        for i in range(count):
            place = logits + i * classes * item_bytes(kind)
            loss, right = error(kind, squared, place, classes, labels[index[start + i]], number(kind, 0), 0)
            losses += loss
            rights += right
        start += count
    return losses, rights, bad


@njit(nogil=True, cache=True)
def train(
    kind,
    head,
    memory,
    table,
    row_bytes,
    labels,
    first_rows,
    batches,
    chosen,
    mean,
    squared,
    parameters,
    m,
    v,
    best,
    factors,
    rates,
    history,
    score,
    groups,
    size,
):
    """Trains the groups groups[0] ... groups[1] - 1, of `size` replicas each, through the epochs of `batches`.

    batches: (epochs, steps, R, B), samples, -1 where there is none; row first_rows[r] + i of the table at `table` holds
    the features of sample i for replica r. mean: whether the loss of a batch is the mean of its samples' or their sum.
    squared: see `error`.
    chosen (R, n): samples looked at after every epoch, or (R, 0). parameters, m, v, best: addresses of the numbers of
    replica 0; `best` are the parameters after the epoch that did best on these samples.
    factors: (epochs, steps, 2, N_FACTORS) and rates (R, 2), for classical parameters and angles. Added up in history
    (R, epochs, 2, 2): losses and right answers while training, and on the chosen samples. score (R, 3): right answers
    and loss of the best epoch so far, and how many epochs ago that was. Returns how often an angle was not finite.
    """
    epochs, steps, n_replicas, batch = batches.shape
    stride = integer(head, STRIDE_OF_REPLICA) * item_bytes(kind)
    classes = integer(head, CLASSES)
    values = integer(head, VALUES)
    samples = memory + integer(head, SAMPLES)
    logits = memory + integer(values, 2 * integer(head, RESULT))
    slopes = memory + integer(values, 2 * integer(head, RESULT) + 1)
    bad = 0
    for group in range(groups[0], groups[1]):
        first = group * size
        replicas = min(size, n_replicas - first)
        at = first * stride
        for epoch in range(epochs):
            for step in range(steps):
                for r in range(replicas):
                    for b in range(batch):
                        row = first_rows[first + r] + max(batches[epoch, step, first + r, b], 0)
                        put_integer(samples, r * batch + b, table + row * row_bytes)
                bad += forward(kind, head, memory, parameters + at, replicas, batch, True)
                for r in range(replicas):
                    share = 1.0
                    if mean:
                        count = 0
                        for b in range(batch):
                            count += batches[epoch, step, first + r, b] >= 0
                        share = 1.0 / max(count, 1)
                    for b in range(batch):
                        place = (r * batch + b) * classes * item_bytes(kind)
                        sample = batches[epoch, step, first + r, b]
                        target = labels[sample] if sample >= 0 else -1
                        weight = number(kind, share)
                        loss, right = error(kind, squared, logits + place, classes, target, weight, slopes + place)
                        history[first + r, epoch, 0, 0] += loss
                        history[first + r, epoch, 0, 1] += right
                of_step = factors.ctypes.data + 8 * (epoch * steps + step) * 2 * N_FACTORS
                of_group = rates.ctypes.data + 8 * 2 * first
                backward(kind, head, memory, parameters + at, m + at, v + at, replicas, batch, of_step, of_group)
            if chosen.shape[1] == 0:
                continue
            for r in range(first, first + replicas):
                mine = parameters + r * stride
                row = first_rows[r]
                seen = look(kind, head, memory, table, row_bytes, chosen[r], labels, row, mine, squared)
                loss, right, wrong = seen
                bad += wrong
                history[r, epoch, 1, 0] += loss
                history[r, epoch, 1, 1] += right
                score[r, 2] += 1
                if loss != loss:
                    loss = math.inf
                if right > score[r, 0] or (right == score[r, 0] and loss < score[r, 1]):
                    score[r, 0] = right
                    score[r, 1] = loss
                    score[r, 2] = 0
                    for k in range(integer(head, N_PARAMETERS)):
                        put(kind, best + r * stride, k, get(kind, mine, k))
    return bad


@njit(nogil=True, cache=True)
def evaluate(kind, head, memory, table, row_bytes, first_rows, n, parameters, out, replicas):
    """Writes the logits (R, n, K) of all `n` samples for the replicas of a range; how often an angle was not finite."""
    stride = integer(head, STRIDE_OF_REPLICA) * item_bytes(kind)
    classes = integer(head, CLASSES)
    samples = memory + integer(head, SAMPLES)
    logits = memory + integer(integer(head, VALUES), 2 * integer(head, RESULT))
    at_once = integer(head, AT_ONCE)
    bad = 0
    for r in range(replicas[0], replicas[1]):
        for first in range(0, n, at_once):
            count = min(at_once, n - first)
            address_rows(samples, table + (first_rows[r] + first) * row_bytes, count, row_bytes)
            bad += forward(kind, head, memory, parameters + r * stride, 1, count, False)
            for i in range(count * classes):
                put(kind, out, (r * n + first) * classes + i, get(kind, logits, i))
    return bad
