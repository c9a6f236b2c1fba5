// y = x W^T for a few rows of x against weights packed once: the work of a decoding step.
//
// W [N, K] lies in panels of 64 outputs, so that a step reads each weight once, in order. Every output is summed over k in
// one fixed order whatever the number of rows: a row's numbers do not depend on what shares its batch.
//   float, int8: [N / 64][K][64]          bf16: [N / 64][K / 2][64][2], pairs of k side by side
#pragma once
#include "team.h"
#include "vectors.h"

constexpr int PANEL = 64;
constexpr int VECTORS = PANEL / LANES;
constexpr int MAX_ROWS = 6;  // rows a kernel holds in registers: 6 x 4 accumulators of the 32

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
#if defined(__AVX512BF16__)
template <> struct InputOf<bf16> {
    using type = bf16;
};
#endif
template <class W> using Input = typename InputOf<W>::type;

template <int R> struct Block {
    floats sums[R][VECTORS];
};

template <int R, class W> inline Block<R> multiply(const float* x, int64_t stride, const W* panel, int64_t inputs) {
    Block<R> block = {};
    for (int64_t k = 0; k < inputs; k++, panel += PANEL) {
        floats w[VECTORS];
        for (int v = 0; v < VECTORS; v++) w[v] = load(panel + v * LANES);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < VECTORS; v++) block.sums[r][v] += spread(x[r * stride + k]) * w[v];
    }
    return block;
}

// bf16 weights without a bf16 product: a pair is two floats, the even k in the low half of a word.
template <int R> inline Block<R> multiply(const float* x, int64_t stride, const bf16* panel, int64_t inputs) {
    Block<R> block = {};
    for (int64_t k = 0; k < inputs; k += 2, panel += 2 * PANEL) {
        for (int v = 0; v < VECTORS; v++) {
            words pair = load_as<words>(panel + 2 * v * LANES);
            floats even = (floats)(pair << 16), odd = (floats)(pair & 0xffff0000u);
            for (int r = 0; r < R; r++) {
                block.sums[r][v] += spread(x[r * stride + k]) * even;
                block.sums[r][v] += spread(x[r * stride + k + 1]) * odd;
            }
        }
    }
    return block;
}

#if defined(__AVX512BF16__)
template <int R> inline Block<R> multiply(const bf16* x, int64_t stride, const bf16* panel, int64_t inputs) {
    Block<R> block = {};
    for (int64_t k = 0; k < inputs; k += 2, panel += 2 * PANEL) {
        __m512bh w[VECTORS];
        for (int v = 0; v < VECTORS; v++) w[v] = load_as<__m512bh>(panel + 2 * v * LANES);
        for (int r = 0; r < R; r++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32(load_as<int32_t>(x + r * stride + k));
            for (int v = 0; v < VECTORS; v++)
                block.sums[r][v] = (floats)_mm512_dpbf16_ps((__m512)block.sums[r][v], pair, w[v]);
        }
    }
    return block;
}
#endif

// One panel against R rows, then finish(row, panel, sums) with scale and bias applied.
template <int R, class W, class Finish>
inline void panel_rows(const Matrix& m, const Input<W>* x, int64_t stride, int64_t row, int64_t panel, Finish&& finish) {
    const W* weight = (const W*)m.weight + panel * PANEL * m.inputs;
    Block<R> block = multiply<R>(x + row * stride, stride, weight, m.inputs);
    for (int r = 0; r < R; r++) {
        for (int v = 0; v < VECTORS; v++) {
            int64_t column = panel * PANEL + v * LANES;
            floats scale = m.scale ? load(m.scale + column) : spread(1.0f);
            block.sums[r][v] = fused(block.sums[r][v], scale, m.bias ? load(m.bias + column) : floats{});
        }
        finish(row + r, panel, block.sums[r]);
    }
}

// x [rows, K] through the whole matrix, shared by the members of the team. No barrier at the end.
template <class W, class Finish>
inline void product(Member& member, const Matrix& m, const Input<W>* x, int64_t stride, int64_t rows, Finish&& finish) {
    member.take((m.outputs + PANEL - 1) / PANEL, [&](int64_t panel) {
        int64_t row = 0;
        for (; row + MAX_ROWS <= rows; row += MAX_ROWS) panel_rows<MAX_ROWS, W>(m, x, stride, row, panel, finish);
        switch (rows - row) {
            case 5: panel_rows<5, W>(m, x, stride, row, panel, finish); break;
            case 4: panel_rows<4, W>(m, x, stride, row, panel, finish); break;
            case 3: panel_rows<3, W>(m, x, stride, row, panel, finish); break;
            case 2: panel_rows<2, W>(m, x, stride, row, panel, finish); break;
            case 1: panel_rows<1, W>(m, x, stride, row, panel, finish); break;
        }
    });
}
