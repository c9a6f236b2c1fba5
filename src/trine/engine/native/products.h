// y = x W^T for a few rows of x against weights packed once: the work of a decoding step.
//
// W [N, K] lies in panels of PANEL outputs, so that a step reads each weight once, in order. Every output is summed over k in
// one fixed order whatever the number of rows: a row's numbers do not depend on what shares its batch.
//   float, int8: [N / PANEL][K][PANEL]          bf16: [N / PANEL][K / 2][PANEL][2], pairs of k side by side
#pragma once
#include <type_traits>
#include <vector>

#include "team.h"
#include "vectors.h"

// A kernel holds ROWS rows x one panel in registers, or fewer rows of several panels, since a few sums alone would wait for
// each other: 6 x 4 accumulators of the 32 registers of AVX-512 and NEON, 6 x 2 of the 16 of AVX2, 3 x 2 of those of SSE.
#if VECTOR_BYTES == 64
constexpr int PANEL = 64, MAX_ROWS = 6, MAX_SUMS = 24;
#elif defined(__aarch64__)
constexpr int PANEL = 16, MAX_ROWS = 6, MAX_SUMS = 24;
#elif VECTOR_BYTES == 32
constexpr int PANEL = 16, MAX_ROWS = 6, MAX_SUMS = 12;
#else
constexpr int PANEL = 8, MAX_ROWS = 3, MAX_SUMS = 8;
#endif
constexpr int VECTORS = PANEL / LANES;
constexpr int TASK = 64 / PANEL;  // panels that a thread takes at a time

// Panels that R rows meet at once.
constexpr int panels_at_once(int rows) {
    int many = MAX_SUMS / (rows * VECTORS);
    return many >= TASK ? TASK : many >= 2 && TASK >= 2 ? 2 : 1;
}

struct Matrix {
    const void* weight;
    const float* scale;  // int8: one factor an output
    const float* bias;   // or null
    int64_t outputs, inputs;
};

// What a weight is multiplied with: bf16 pairs where the processor has that product, else floats.
template <class W> struct InputOf {
    using type = float;
};
#if defined(HAS_PAIR_PRODUCT)
template <> struct InputOf<bf16> {
    using type = bf16;
};
#endif
template <class W> using Input = typename InputOf<W>::type;

// P panels, `distance` weights apart, against R rows.
template <int R, int P> struct Block {
    floats sums[P][R][VECTORS];
};

template <int R, int P, class W>
inline Block<R, P> multiply(const float* x, int64_t stride, const W* panel, int64_t distance, int64_t inputs) {
    Block<R, P> block = {};
    for (int64_t k = 0; k < inputs; k++, panel += PANEL)
        for (int p = 0; p < P; p++) {
            floats w[VECTORS];
            for (int v = 0; v < VECTORS; v++) w[v] = load(panel + p * distance + v * LANES);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < VECTORS; v++)
                    block.sums[p][r][v] = fused(spread(x[r * stride + k]), w[v], block.sums[p][r][v]);
        }
    return block;
}

// bf16 weights without a bf16 product: a pair is two floats, the even k in the low half of a word.
template <int R, int P>
inline Block<R, P> multiply(const float* x, int64_t stride, const bf16* panel, int64_t distance, int64_t inputs) {
    Block<R, P> block = {};
    for (int64_t k = 0; k < inputs; k += 2, panel += 2 * PANEL)
        for (int p = 0; p < P; p++)
            for (int v = 0; v < VECTORS; v++) {
                words pair = load_as<words>(panel + p * distance + 2 * v * LANES);
                floats even = (floats)(pair << 16), odd = (floats)(pair & 0xffff0000u);
                for (int r = 0; r < R; r++) {
                    floats sum = fused(spread(x[r * stride + k]), even, block.sums[p][r][v]);
                    block.sums[p][r][v] = fused(spread(x[r * stride + k + 1]), odd, sum);
                }
            }
    return block;
}

#if defined(HAS_PAIR_PRODUCT)
template <int R, int P>
inline Block<R, P> multiply(const bf16* x, int64_t stride, const bf16* panel, int64_t distance, int64_t inputs) {
    Block<R, P> block = {};
    for (int64_t k = 0; k < inputs; k += 2, panel += 2 * PANEL)
        for (int p = 0; p < P; p++) {
            words w[VECTORS];
            for (int v = 0; v < VECTORS; v++) w[v] = load_as<words>(panel + p * distance + 2 * v * LANES);
            for (int r = 0; r < R; r++) {
                words pair = words{} + load_as<uint32_t>(x + r * stride + k);
                for (int v = 0; v < VECTORS; v++) block.sums[p][r][v] = add_pairs(block.sums[p][r][v], pair, w[v]);
            }
        }
    return block;
}
#endif

// P panels against R rows, then finish(row, panel, sums) with scale and bias applied.
template <int R, int P, class W, class Finish>
inline void panels_rows(const Matrix& m, const Input<W>* x, int64_t stride, int64_t row, int64_t panel, Finish&& finish) {
    int64_t distance = PANEL * m.inputs;
    const W* weight = (const W*)m.weight + panel * distance;
    Block<R, P> block = multiply<R, P>(x + row * stride, stride, weight, distance, m.inputs);
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++) {
            for (int v = 0; v < VECTORS; v++) {
                int64_t column = (panel + p) * PANEL + v * LANES;
                floats scale = m.scale ? load(m.scale + column) : spread(1.0f);
                block.sums[p][r][v] = fused(block.sums[p][r][v], scale, m.bias ? load(m.bias + column) : floats{});
            }
            finish(row + r, panel + p, block.sums[p][r]);
        }
}

// R rows through the panels first .. last - 1.
template <int R, class W, class Finish>
inline void some_rows(const Matrix& m, const Input<W>* x, int64_t stride, int64_t row, int64_t first, int64_t last,
                      Finish&& finish) {
    constexpr int P = panels_at_once(R);
    int64_t panel = first;
    for (; panel + P <= last; panel += P) panels_rows<R, P, W>(m, x, stride, row, panel, finish);
    for (; panel < last; panel++) panels_rows<R, 1, W>(m, x, stride, row, panel, finish);
}

// Weights that a product makes floats again and again, for every MAX_ROWS rows; for more rows it is done once.
template <class W> constexpr bool WIDENED = !std::is_same_v<W, float> && std::is_same_v<Input<W>, float>;

template <class W> inline void widen(const W* panel, int64_t inputs, float* wide) {
    for (int64_t i = 0; i < inputs * PANEL; i += LANES) store(wide + i, load(panel + i));
}

inline void widen(const bf16* panel, int64_t inputs, float* wide) {
    for (int64_t k = 0; k < inputs; k += 2, panel += 2 * PANEL, wide += 2 * PANEL)
        for (int v = 0; v < VECTORS; v++) {
            words pair = load_as<words>(panel + 2 * v * LANES);
            store(wide + v * LANES, (floats)(pair << 16));
            store(wide + PANEL + v * LANES, (floats)(pair & 0xffff0000u));
        }
}

// The first `rows` rows, a multiple of MAX_ROWS, through one panel made floats: the bits are the same.
template <class W, class Finish>
__attribute__((noinline)) void widened_rows(const Matrix& m, const float* x, int64_t stride, int64_t rows, int64_t panel,
                                            Finish& finish) {
    thread_local std::vector<float> wide;
    wide.resize(m.inputs * PANEL);
    widen((const W*)m.weight + panel * PANEL * m.inputs, m.inputs, wide.data());
    auto from = [&](const float* factors) { return factors ? factors + panel * PANEL : nullptr; };
    Matrix one{wide.data(), from(m.scale), from(m.bias), PANEL, m.inputs};
    for (int64_t row = 0; row < rows; row += MAX_ROWS)
        panels_rows<MAX_ROWS, 1, float>(one, x, stride, row, 0,
                                        [&](int64_t at, int64_t, auto& sums) { finish(at, panel, sums); });
}

// x [rows, K] through the whole matrix, shared by the members of the team. No barrier at the end.
template <class W, class Finish>
inline void product(Member& member, const Matrix& m, const Input<W>* x, int64_t stride, int64_t rows, Finish&& finish) {
    int64_t panels = (m.outputs + PANEL - 1) / PANEL, whole = rows / MAX_ROWS * MAX_ROWS;
    member.take((panels + TASK - 1) / TASK, [&](int64_t task) {
        int64_t first = task * TASK, last = std::min(panels, first + TASK);
        for (int64_t panel = first; panel < last; panel++) {  // a panel stays near while all rows pass
            if constexpr (WIDENED<W>)
                if (whole > MAX_ROWS) {
                    widened_rows<W>(m, x, stride, whole, panel, finish);
                    continue;
                }
            for (int64_t row = 0; row < whole; row += MAX_ROWS)
                panels_rows<MAX_ROWS, 1, W>(m, x, stride, row, panel, finish);
        }
        switch (rows - whole) {
            case 5: some_rows<MAX_ROWS >= 6 ? 5 : 1, W>(m, x, stride, whole, first, last, finish); break;
            case 4: some_rows<MAX_ROWS >= 6 ? 4 : 1, W>(m, x, stride, whole, first, last, finish); break;
            case 3: some_rows<MAX_ROWS >= 6 ? 3 : 1, W>(m, x, stride, whole, first, last, finish); break;
            case 2: some_rows<2, W>(m, x, stride, whole, first, last, finish); break;
            case 1: some_rows<1, W>(m, x, stride, whole, first, last, finish); break;
        }
    });
}
