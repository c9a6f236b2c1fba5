// Linear layers over fp32 master weights, forward and backward, in bf16 or fp32 with fp32 accumulation.
//
// The right operand of a product is packed into panels of PANEL columns, [panel][sum / PER_WORD][PANEL] words, which each tile
// reads sequentially (Goto & van de Geijn 2008). Weights are rounded to the inputs' type while they are packed, so no
// bf16 copy is kept; the gradient of a weight is accumulated and written in fp32.
#pragma once
#include <algorithm>

#include "activations.h"
#include "tiles.h"

// A tile is LINEAR_ROWS rows of a panel, as many accumulators as registers allow; it runs over WORD_CHUNK words of the summed
// dimension, so that a panel's part stays in the nearest cache while ROW_CHUNK rows pass, and the rows' part in the next while
// PANEL_CHUNK panels pass. LEFT_PANEL: columns of a packed left operand of pairs.
#if VECTOR_BYTES == 64
constexpr int64_t PANEL = 64, LINEAR_ROWS = 4, LEFT_PANEL = 64, ROW_CHUNK = 128, WORD_CHUNK = 1024, PANEL_CHUNK = 1;
#elif VECTOR_BYTES == 32 || defined(__aarch64__)
constexpr int64_t PANEL = 16, LINEAR_ROWS = 6, LEFT_PANEL = 96, ROW_CHUNK = 120, WORD_CHUNK = 256, PANEL_CHUNK = 24;
#else
constexpr int64_t PANEL = 16, LINEAR_ROWS = 3, LEFT_PANEL = 96, ROW_CHUNK = 120, WORD_CHUNK = 256, PANEL_CHUNK = 24;
#endif

inline int64_t panels_of(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

template <class T> inline int64_t words_of(int64_t values) { return (values + PER_WORD<T> - 1) / PER_WORD<T>; }

// Distance of panels, padded: at powers of 2, panels would map to few cache sets.
inline int64_t panel_stride(int64_t depth) { return depth * PANEL + 64 / sizeof(uint32_t); }

// LANES columns of two rows as words; the second may be missing.
template <class T> struct Words;
template <> struct Words<float> {
    static words rows(const float* first, const float*) { return load_as<words>(first); }
    static words along(const float* from) { return load_as<words>(from); }
};
template <> struct Words<bf16> {
    static halves rounded(const bf16* from) { return load_as<halves>(from); }
    static halves rounded(const float* from) {
        halves value;
        store((bf16*)&value, load(from));
        return value;
    }
    template <class S> static words rows(const S* first, const S* second) {
        return interleaved(rounded(first), second ? rounded(second) : halves{});
    }
    // 2 LANES consecutive values. (Combining the halves in memory would cause a store-forwarding stall.)
    static words along(const float* from) {
#if defined(__AVX512BF16__)
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)load(from + LANES), (__m512)load(from));
        return load_as<words>(&both);
#else
        halves parts[2] = {rounded(from), rounded(from + LANES)};
        return load_as<words>(parts);
#endif
    }
};

// Panels of `panel` columns over the columns of from [rows][columns], words along its rows, padded with 0.
template <class T, class S>
void pack_rows(const S* from, int64_t rows, int64_t columns, int64_t panel, int64_t stride, uint32_t* to, int64_t threads) {
    int64_t depth = words_of<T>(rows), padded = (columns + panel - 1) / panel * panel;
    over_rows(depth, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t word = first; word < last; word++)
            for (int64_t i = 0; i < padded; i += LANES) {
                int64_t row = word * PER_WORD<T>;
                const S* at = from + row * columns + i;
                words value{};
                if (i < columns) value = Words<T>::rows(at, row + 1 < rows ? at + columns : nullptr);
                std::memcpy(to + i / panel * stride + word * panel + i % panel, &value, sizeof(value));
            }
    });
}

// Panels over the rows of from [rows][columns], words along its columns, a multiple of LANES words.
template <class T> inline void pack_columns(const float* from, int64_t rows, int64_t columns, uint32_t* to, int64_t threads) {
    int64_t stride = panel_stride(columns / PER_WORD<T>);
    over_rows(panels_of(rows) * PANEL / LANES, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t row = first * LANES; row < last * LANES; row += LANES)
            for (int64_t i = 0; i < columns; i += PER_WORD<T> * LANES) {
                words block[LANES] = {};
                for (int k = 0; k < LANES && row + k < rows; k++) block[k] = Words<T>::along(from + (row + k) * columns + i);
                transpose_block(block);
                uint32_t* target = to + row / PANEL * stride + i / PER_WORD<T> * PANEL + row % PANEL;
                for (int k = 0; k < LANES; k++) std::memcpy(target + k * PANEL, &block[k], sizeof(words));
            }
    });
}

// Word (row, depth) of the left operand: tile(row / LINEAR_ROWS)[row % LINEAR_ROWS * row_stride + depth * depth_stride].
struct Left {
    const uint32_t* at;
    int64_t row_stride, depth_stride, tile_stride;

    Left(const uint32_t* at, int64_t row_stride, int64_t depth_stride, int64_t tile_stride = 0)
        : at(at), row_stride(row_stride), depth_stride(depth_stride),
          tile_stride(tile_stride ? tile_stride : LINEAR_ROWS * row_stride) {}
    const uint32_t* tile(int64_t row) const { return at + row / LINEAR_ROWS * tile_stride; }
    Left from(int64_t depth) const { return {at + depth * depth_stride, row_stride, depth_stride, tile_stride}; }
};

// ROWS rows and one panel of out [rows][columns] (+)= left panel + bias. The loops have constant bounds, or the sums would be
// kept in memory.
template <class T, int ROWS, class Out>
inline void panel_tile(const Left& left, const uint32_t* panel, int64_t depth, int64_t row, int64_t column, int64_t columns,
                       const float* bias, Out* out, bool add) {
    constexpr int VECTORS = PANEL / LANES;
    floats sums[ROWS][VECTORS];
    int vectors = std::min<int64_t>(VECTORS, (columns - column) / LANES);
    for (int j = 0; j < VECTORS; j++) {
        floats begin = bias && j < vectors ? load(bias + column + j * LANES) : floats{};
        for (int i = 0; i < ROWS; i++) sums[i][j] = begin;
    }
    const uint32_t* a = left.tile(row);
    for (int64_t k = 0; k < depth; k++, a += left.depth_stride) {
        words right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load_as<words>(panel + k * PANEL + j * LANES);
        for (int i = 0; i < ROWS; i++) {
            words both = words{} + a[i * left.row_stride];
            for (int j = 0; j < VECTORS; j++) sums[i][j] = add_products<T>(sums[i][j], both, right[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++)
            if (j < vectors) {
                Out* target = out + (row + i) * columns + column + j * LANES;
                store(target, add ? load(target) + sums[i][j] : sums[i][j]);
            }
}

// The rows first .. last - 1 of a panel, LINEAR_ROWS at a time.
template <class T, class Out>
inline void panel_rows(const Left& left, const uint32_t* panel, int64_t depth, int64_t first, int64_t last, int64_t column,
                       int64_t columns, const float* bias, Out* out, bool add) {
    int64_t row = first;
    for (; row + LINEAR_ROWS <= last; row += LINEAR_ROWS)
        panel_tile<T, LINEAR_ROWS>(left, panel, depth, row, column, columns, bias, out, add);
    switch (last - row) {
        case 5: panel_tile<T, LINEAR_ROWS >= 6 ? 5 : 1>(left, panel, depth, row, column, columns, bias, out, add); break;
        case 4: panel_tile<T, LINEAR_ROWS >= 6 ? 4 : 1>(left, panel, depth, row, column, columns, bias, out, add); break;
        case 3: panel_tile<T, LINEAR_ROWS >= 4 ? 3 : 1>(left, panel, depth, row, column, columns, bias, out, add); break;
        case 2: panel_tile<T, 2>(left, panel, depth, row, column, columns, bias, out, add); break;
        case 1: panel_tile<T, 1>(left, panel, depth, row, column, columns, bias, out, add); break;
    }
}

// out [rows][columns] = left [rows][depth words] times panels, plus bias (may be null); columns a multiple of LANES.
template <class T, class Out>
void multiply_panels(const Left& left, int64_t rows, const uint32_t* panels, int64_t depth, int64_t columns,
                     const float* bias, Out* out, int64_t threads) {
    int64_t chunks = (rows + ROW_CHUNK - 1) / ROW_CHUNK, count = panels_of(columns);
    int64_t together = std::max<int64_t>(1, std::min(PANEL_CHUNK, chunks * count / (4 * threads)));  // no thread is idle
    int64_t groups = (count + together - 1) / together;
    int64_t step = sizeof(Out) == sizeof(float) ? WORD_CHUNK : depth;  // bf16 holds no partial sums
    over_each(chunks * groups, threads, [&](int64_t task) {
        int64_t chunk = task / groups, begin = task % groups * together, end = std::min(rows, (chunk + 1) * ROW_CHUNK);
        for (int64_t first = 0; first < depth; first += step) {
            Left part = left.from(first);
            for (int64_t panel = begin; panel < std::min(count, begin + together); panel++)
                panel_rows<T>(part, panels + panel * panel_stride(depth) + first * PANEL, std::min(step, depth - first),
                              chunk * ROW_CHUNK, end, panel * PANEL, columns, first ? nullptr : bias, out, first > 0);
        }
    });
}

struct LinearSizes {
    int64_t rows, inputs, outputs;
};

// out [rows][outputs] = x weight^T + bias
template <class T>
inline void linear_forward(const LinearSizes& size, const T* x, const float* weight, const float* bias, T* out,
                           int64_t threads) {
    int64_t depth = size.inputs / PER_WORD<T>;
    Scratch<uint32_t> panels(panels_of(size.outputs) * panel_stride(depth));
    pack_columns<T>(weight, size.outputs, size.inputs, panels, threads);
    multiply_panels<T>({as_words(x), depth, 1}, size.rows, panels, depth, size.outputs, bias, out, threads);
}

// x_gradient [rows][inputs] = gradient weight
template <class T>
inline void linear_input_backward(const LinearSizes& size, const T* gradient, const float* weight, T* x_gradient,
                                  int64_t threads) {
    int64_t depth = size.outputs / PER_WORD<T>;
    Scratch<uint32_t> panels(panels_of(size.inputs) * panel_stride(depth));
    pack_rows<T>(weight, size.outputs, size.inputs, PANEL, panel_stride(depth), panels, threads);
    multiply_panels<T>({as_words(gradient), depth, 1}, size.rows, panels, depth, size.inputs, nullptr, x_gradient, threads);
}

// Tiles of LINEAR_ROWS columns of from [rows][columns], [tile][rows][LINEAR_ROWS]; the last may be incomplete.
inline void pack_tiles(const float* from, int64_t rows, int64_t columns, int64_t stride, uint32_t* to, int64_t threads) {
    constexpr int64_t COLUMNS = 16 * LINEAR_ROWS;  // so many tiles are written at a time, few enough for the cache
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t column = 0; column < columns; column += COLUMNS)
            for (int64_t row = first; row < last; row++)
                for (int64_t i = column; i < std::min(columns, column + COLUMNS); i += LINEAR_ROWS) {
                    uint32_t* target = to + i / LINEAR_ROWS * stride + row * LINEAR_ROWS;
                    const float* source = from + row * columns + i;
                    if (i + LINEAR_ROWS <= columns) std::memcpy(target, source, LINEAR_ROWS * sizeof(float));
                    else std::memcpy(target, source, (columns - i) * sizeof(float));
                }
    });
}

// weight_gradient [outputs][inputs] = gradient^T x
template <class T>
inline void linear_weight_backward(const LinearSizes& size, const T* gradient, const T* x, float* weight_gradient,
                                   int64_t threads) {
    int64_t depth = words_of<T>(size.rows);
    Scratch<uint32_t> right(panels_of(size.inputs) * panel_stride(depth));
    pack_rows<T>(x, size.rows, size.inputs, PANEL, panel_stride(depth), right, threads);
    if constexpr (sizeof(T) == sizeof(float)) {
        int64_t stride = depth * LINEAR_ROWS + 64 / sizeof(uint32_t);
        Scratch<uint32_t> left((size.outputs + LINEAR_ROWS - 1) / LINEAR_ROWS * stride);
        pack_tiles(gradient, size.rows, size.outputs, stride, left, threads);
        multiply_panels<T>({left, 1, LINEAR_ROWS, stride}, size.outputs, right, depth, size.inputs, nullptr, weight_gradient,
                           threads);
    } else {  // words are pairs of rows here
        int64_t stride = depth * LEFT_PANEL + 64 / sizeof(uint32_t);
        Scratch<uint32_t> left((size.outputs + LEFT_PANEL - 1) / LEFT_PANEL * stride);
        pack_rows<T>(gradient, size.rows, size.outputs, LEFT_PANEL, stride, left, threads);
        for (int64_t first = 0; first < size.outputs; first += LEFT_PANEL)
            multiply_panels<T>({left + first / LEFT_PANEL * stride, 1, LEFT_PANEL}, std::min(LEFT_PANEL, size.outputs - first),
                               right, depth, size.inputs, nullptr, weight_gradient + first * size.inputs, threads);
    }
}
