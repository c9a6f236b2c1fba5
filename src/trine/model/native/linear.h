// Linear layers in bf16 with fp32 accumulation, from fp32 master weights, forward and backward.
//
// The right operand of a product is packed into panels of 64 columns, [panel][sum / 2][64] words, which each tile reads
// sequentially. Weights are rounded to bf16 while they are packed, so no bf16 copy is kept; the gradient of a weight is
// accumulated and written in fp32.
#pragma once
#include <algorithm>

#include "activations.h"
#include "tiles.h"

constexpr int64_t PANEL = 64, ROW_CHUNK = 128, PAIR_CHUNK = 1024;

inline int64_t panels_of(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

// Distance of panels, padded by a cache line: at powers of 2, panels would map to few cache sets.
inline int64_t panel_stride(int64_t pairs) { return pairs * PANEL + LANES; }

inline halves rounded(const bf16* from) { return load_as<halves>(from); }
inline halves rounded(const float* from) {
    halves value;
    store((bf16*)&value, load(from));
    return value;
}

// 32 consecutive values as 16 words. (Combining the halves in memory would cause a store-forwarding stall.)
inline words rounded_pairs(const float* from) {
#if defined(__AVX512BF16__)
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)load(from + LANES), (__m512)load(from));
    return load_as<words>(&both);
#else
    halves parts[2] = {rounded(from), rounded(from + LANES)};
    return load_as<words>(parts);
#endif
}

// Panels over the columns of from [rows][columns], pairs along its rows, padded with 0.
template <class T> void pack_rows(const T* from, int64_t rows, int64_t columns, uint32_t* to, int64_t threads) {
    int64_t pairs = (rows + 1) / 2;
    over_rows(pairs, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t pair = first; pair < last; pair++)
            for (int64_t i = 0; i < panels_of(columns) * PANEL; i += LANES) {
                const T* at = from + 2 * pair * columns + i;
                words value{};
                if (i < columns) value = interleaved(rounded(at), 2 * pair + 1 < rows ? rounded(at + columns) : halves{});
                std::memcpy(to + i / PANEL * panel_stride(pairs) + pair * PANEL + i % PANEL, &value, sizeof(value));
            }
    });
}

// Panels over the rows of from [rows][columns], pairs along its columns, a multiple of 2 * LANES.
inline void pack_columns(const float* from, int64_t rows, int64_t columns, uint32_t* to, int64_t threads) {
    over_rows(panels_of(rows) * PANEL / LANES, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t row = first * LANES; row < last * LANES; row += LANES)
            for (int64_t i = 0; i < columns; i += 2 * LANES) {
                words block[LANES] = {};
                for (int k = 0; k < LANES && row + k < rows; k++) block[k] = rounded_pairs(from + (row + k) * columns + i);
                transpose_16(block);
                uint32_t* target = to + row / PANEL * panel_stride(columns / 2) + i / 2 * PANEL + row % PANEL;
                for (int k = 0; k < LANES; k++) std::memcpy(target + k * PANEL, &block[k], sizeof(words));
            }
    });
}

// Word (row, pair) of the left operand: at[row * row_stride + pair * pair_stride].
struct Left {
    const uint32_t* at;
    int64_t row_stride, pair_stride;
};

// Four rows and one panel of out [rows][columns] (+)= left panel + bias.
template <class Out>
inline void panel_tile(const Left& left, const uint32_t* panel, int64_t pairs, int64_t row, int64_t rows, int64_t column,
                       int64_t columns, const float* bias, Out* out, bool add) {
    constexpr int VECTORS = PANEL / LANES;
    floats sums[TILE_ROWS][VECTORS];
    const uint32_t* a[TILE_ROWS];
    int vectors = std::min<int64_t>(VECTORS, (columns - column) / LANES), there = std::min<int64_t>(TILE_ROWS, rows - row);
    for (int i = 0; i < TILE_ROWS; i++) a[i] = left.at + (row + std::min(i, there - 1)) * left.row_stride;
    for (int j = 0; j < VECTORS; j++) {
        floats begin = bias && j < vectors ? load(bias + column + j * LANES) : floats{};
        for (int i = 0; i < TILE_ROWS; i++) sums[i][j] = begin;
    }
    for (int64_t k = 0; k < pairs; k++) {
        words right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load_as<words>(panel + k * PANEL + j * LANES);
        for (int i = 0; i < TILE_ROWS; i++) {
            words both = words{} + a[i][k * left.pair_stride];
            for (int j = 0; j < VECTORS; j++) sums[i][j] = add_pairs(sums[i][j], both, right[j]);
        }
    }
    for (int i = 0; i < there; i++)
        for (int j = 0; j < vectors; j++) {
            Out* target = out + (row + i) * columns + column + j * LANES;
            store(target, add ? load(target) + sums[i][j] : sums[i][j]);
        }
}

// out [rows][columns] = left [rows][2 pairs] times panels, plus bias (may be null); columns a multiple of LANES.
template <class Out>
void multiply_panels(const Left& left, int64_t rows, const uint32_t* panels, int64_t pairs, int64_t columns,
                     const float* bias, Out* out, int64_t threads) {
    int64_t chunks = (rows + ROW_CHUNK - 1) / ROW_CHUNK, count = panels_of(columns);
    int64_t step = sizeof(Out) == sizeof(float) ? PAIR_CHUNK : pairs;  // bf16 holds no partial sums
    over_each(chunks * count, threads, [&](int64_t task) {
        int64_t chunk = task / count, panel = task % count, end = std::min(rows, (chunk + 1) * ROW_CHUNK);
        for (int64_t first = 0; first < pairs; first += step) {
            Left part{left.at + first * left.pair_stride, left.row_stride, left.pair_stride};
            for (int64_t row = chunk * ROW_CHUNK; row < end; row += TILE_ROWS)
                panel_tile(part, panels + panel * panel_stride(pairs) + first * PANEL, std::min(step, pairs - first), row, end,
                           panel * PANEL, columns, first ? nullptr : bias, out, first > 0);
        }
    });
}

struct LinearSizes {
    int64_t rows, inputs, outputs;
};

// out [rows][outputs] = x weight^T + bias
inline void linear_forward(const LinearSizes& size, const bf16* x, const float* weight, const float* bias, bf16* out,
                           int64_t threads) {
    Scratch<uint32_t> panels(panels_of(size.outputs) * panel_stride(size.inputs / 2));
    pack_columns(weight, size.outputs, size.inputs, panels, threads);
    multiply_panels({(const uint32_t*)x, size.inputs / 2, 1}, size.rows, panels, size.inputs / 2, size.outputs, bias, out,
                    threads);
}

// x_gradient [rows][inputs] = gradient weight
inline void linear_input_backward(const LinearSizes& size, const bf16* gradient, const float* weight, bf16* x_gradient,
                                  int64_t threads) {
    Scratch<uint32_t> panels(panels_of(size.inputs) * panel_stride(size.outputs / 2));
    pack_rows(weight, size.outputs, size.inputs, panels, threads);
    multiply_panels({(const uint32_t*)gradient, size.outputs / 2, 1}, size.rows, panels, size.outputs / 2, size.inputs,
                    nullptr, x_gradient, threads);
}

// weight_gradient [outputs][inputs] = gradient^T x, a panel of outputs at a time.
inline void linear_weight_backward(const LinearSizes& size, const bf16* gradient, const bf16* x, float* weight_gradient,
                                   int64_t threads) {
    int64_t pairs = (size.rows + 1) / 2;
    Scratch<uint32_t> left(panels_of(size.outputs) * panel_stride(pairs)), right(panels_of(size.inputs) * panel_stride(pairs));
    pack_rows(gradient, size.rows, size.outputs, left, threads);
    pack_rows(x, size.rows, size.inputs, right, threads);
    for (int64_t panel = 0; panel < panels_of(size.outputs); panel++)
        multiply_panels({left + panel * panel_stride(pairs), 1, PANEL}, std::min(PANEL, size.outputs - panel * PANEL), right,
                        pairs, size.inputs, nullptr, weight_gradient + panel * PANEL * size.inputs, threads);
}
