"""The CPU kernels of `density`, compiled by Numba and kept on disk: SIMD over blocks of samples.

A block holds as many samples as a vector register has lanes, one sample a lane; the expectation value of a Pauli word
is one vector. `density_cpu` makes the lists that say which words an operation reads and writes, so that words which
are zero, or which no output depends on, cost nothing. Lanes never mix: a sample does not depend on its neighbours.

Arrays of samples, angles (G, blocks) for example, are made of vectors, a block beside the other.
"""

from numba import njit

from qtl_utils.circuits.vectors import add, fma, get, integer, load, mul, number, splat, store

CHUNK = 256  # products summed up before they are added to the total: keeps float32 sums accurate

# What describes a circuit is one array of 64-bit integers, its header. These are the positions in it; arrays are given
# by their addresses.
(
    N_OPERATIONS,
    OPERATIONS,  # (operations, N_FIELDS)
    FIRST_TURN,  # the first operation that is a turn: backward ends there
    ONES,  # words that are 1 at the beginning,
    N_ONES,
    ZEROS,  # and those that are 0 and will be read
    N_ZEROS,
    WORDS,  # the words that are measured; -1: one that is always 0
    N_WORDS,
    LAST,  # the words that the last operation leaves behind
    N_LAST,
    STATE_BYTES,  # of one state, and what keeps two from competing for the same places in the cache
) = range(12)
(  # of an operation
    TURN,  # the number of the turn; -1: a map
    PAIRS,  # of a turn: (pairs, 2) words u and v,
    N_PAIRS,
    TAPE,  # and the vector from which on it leaves its words for backward
    FORWARD,  # of a map: its list, and that of its transpose
    BACKWARD,
) = range(6)
N_FIELDS = 6
(  # of the list of a map: every row is a sum of columns, rows of equally many columns stand together
    SEGMENTS,  # (segments, 2): how many columns a row has, and how many rows there are
    N_SEGMENTS,
    ROWS,  # the words that are written
    COLUMNS,  # those that are read, row by row,
    FACTORS,  # and what each is multiplied with, in the vectors' precision
) = range(5)


@njit(nogil=True)
def apply_map(kind, plan, source, target):
    """Writes the rows of a map, each a weighted sum of words of `source`, to `target`."""
    segments = integer(plan, SEGMENTS)
    rows = integer(plan, ROWS)
    columns = integer(plan, COLUMNS)
    factors = integer(plan, FACTORS)
    row = 0
    entry = 0
    for segment in range(integer(plan, N_SEGMENTS)):
        count = integer(segments, 2 * segment)
        end = row + integer(segments, 2 * segment + 1)
        if count == 0:
            nothing = splat(kind, number(kind, 0))
            for r in range(row, end):
                store(kind, target, integer(rows, r), nothing)
        elif count == 1:
            for r in range(row, end):
                value = load(kind, source, integer(columns, entry))
                store(kind, target, integer(rows, r), mul(splat(kind, get(kind, factors, entry)), value))
                entry += 1
        elif count == 2:
            for r in range(row, end):
                value = load(kind, source, integer(columns, entry))
                total = mul(splat(kind, get(kind, factors, entry)), value)
                value = load(kind, source, integer(columns, entry + 1))
                total = fma(splat(kind, get(kind, factors, entry + 1)), value, total)
                store(kind, target, integer(rows, r), total)
                entry += 2
        else:
            for r in range(row, end):
                value = load(kind, source, integer(columns, entry))
                total = mul(splat(kind, get(kind, factors, entry)), value)
                for k in range(entry + 1, entry + count):
                    value = load(kind, source, integer(columns, k))
                    total = fma(splat(kind, get(kind, factors, k)), value, total)
                store(kind, target, integer(rows, r), total)
                entry += count
        row = end


@njit(nogil=True)
def evolve(kind, header, states, tape, cosines, sines, blocks, b):
    """Runs the circuit on block b; returns where its last state is. `tape` 0: nothing is kept for backward."""
    state = states
    other = states + integer(header, STATE_BYTES)
    ones = integer(header, ONES)
    zeros = integer(header, ZEROS)
    operations = integer(header, OPERATIONS)
    for k in range(integer(header, N_ONES)):
        store(kind, state, integer(ones, k), splat(kind, number(kind, 1)))
    for k in range(integer(header, N_ZEROS)):
        store(kind, state, integer(zeros, k), splat(kind, number(kind, 0)))
    for number_of in range(integer(header, N_OPERATIONS)):
        operation = operations + 8 * N_FIELDS * number_of
        turn = integer(operation, TURN)
        if turn < 0:
            apply_map(kind, integer(operation, FORWARD), state, other)
            state, other = other, state
            continue
        pairs = integer(operation, PAIRS)
        c = load(kind, cosines, turn * blocks + b)
        s = load(kind, sines, turn * blocks + b)
        minus = mul(splat(kind, number(kind, -1)), s)
        place = integer(operation, TAPE)
        for k in range(integer(operation, N_PAIRS)):
            u = integer(pairs, 2 * k)
            v = integer(pairs, 2 * k + 1)
            one = load(kind, state, u)
            two = load(kind, state, v)
            new_one = fma(minus, two, mul(c, one))
            new_two = fma(s, one, mul(c, two))
            store(kind, state, u, new_one)
            store(kind, state, v, new_two)
            if tape:
                store(kind, tape, place + 2 * k, new_one)
                store(kind, tape, place + 2 * k + 1, new_two)
    return state


@njit(nogil=True, cache=True)
def forward_density(kind, header, first, last, memory, cosines, sines, blocks, out):
    """Values of all words, (W, blocks), of blocks first ... last - 1; `memory` has room for two states."""
    words = integer(header, WORDS)
    for b in range(first, last):
        state = evolve(kind, header, memory, 0, cosines, sines, blocks, b)
        for w in range(integer(header, N_WORDS)):
            word = integer(words, w)
            if word < 0:
                store(kind, out, w * blocks + b, splat(kind, number(kind, 0)))
            else:
                store(kind, out, w * blocks + b, load(kind, state, word))


@njit(nogil=True, cache=True)
def backward_density(kind, header, first, last, memory, cosines, sines, blocks, gradient, slopes):
    """Derivatives (G, blocks) with respect to the angles, for the gradient (W, blocks) of the words.

    The circuit runs once more and leaves on the tape what its turns wrote; `memory` has room for four states and the
    tape. A turn's derivative moves the words it wrote: u' by -v', v' by u'.
    """
    size = integer(header, STATE_BYTES)
    states = memory + 2 * size
    tape = memory + 4 * size
    words = integer(header, WORDS)
    last_words = integer(header, LAST)
    operations = integer(header, OPERATIONS)
    nothing = splat(kind, number(kind, 0))
    for b in range(first, last):
        evolve(kind, header, memory, tape, cosines, sines, blocks, b)
        state = states  # the derivative of the outputs with respect to every word
        other = states + size
        for k in range(integer(header, N_LAST)):
            store(kind, state, integer(last_words, k), nothing)
        for w in range(integer(header, N_WORDS)):
            if integer(words, w) >= 0:
                store(kind, state, integer(words, w), load(kind, gradient, w * blocks + b))
        for number_of in range(integer(header, N_OPERATIONS) - 1, integer(header, FIRST_TURN) - 1, -1):
            operation = operations + 8 * N_FIELDS * number_of
            turn = integer(operation, TURN)
            if turn < 0:
                apply_map(kind, integer(operation, BACKWARD), state, other)
                state, other = other, state
                continue
            pairs = integer(operation, PAIRS)
            n_pairs = integer(operation, N_PAIRS)
            c = load(kind, cosines, turn * blocks + b)
            s = load(kind, sines, turn * blocks + b)
            minus = mul(splat(kind, number(kind, -1)), s)
            place = integer(operation, TAPE)
            total = nothing
            for start in range(0, n_pairs, CHUNK):
                plus = nothing
                less = nothing
                for k in range(start, min(start + CHUNK, n_pairs)):
                    u = integer(pairs, 2 * k)
                    v = integer(pairs, 2 * k + 1)
                    one = load(kind, state, u)
                    two = load(kind, state, v)
                    plus = fma(two, load(kind, tape, place + 2 * k), plus)
                    less = fma(one, load(kind, tape, place + 2 * k + 1), less)
                    store(kind, state, u, fma(s, two, mul(c, one)))
                    store(kind, state, v, fma(minus, one, mul(c, two)))
                total = add(total, fma(splat(kind, number(kind, -1)), less, plus))
            store(kind, slopes, turn * blocks + b, total)
