// Small matrix products in bf16 with fp32 accumulation, and their packed formats.
//
// The bf16 dot product instruction takes pairs: a word holds two neighbours along the summed dimension. A "tall" operand is words
// [sum / 2][columns], a "wide" one words [rows][sum / 2], which a row-major bf16 matrix already is.
#pragma once
#include <memory>

#include "vectors.h"

// Temporary memory, aligned to a vector.
template <class T> struct Scratch {
    std::unique_ptr<char[]> memory;
    T* at;
    explicit Scratch(int64_t count) : memory(new char[count * sizeof(T) + 64]) {
        at = (T*)(((uintptr_t)memory.get() + 63) / 64 * 64);
    }
    operator T*() const { return at; }
};


// sum += a.low * b.low + a.high * b.high
inline floats add_pairs(floats sum, words a, words b) {
#if defined(__AVX512BF16__)
    return (floats)_mm512_dpbf16_ps((__m512)sum, load_as<__m512bh>(&a), load_as<__m512bh>(&b));
#else
    sum = fused((floats)(a << 16), (floats)(b << 16), sum);
    return fused((floats)(a & 0xffff0000u), (floats)(b & 0xffff0000u), sum);
#endif
}

struct Product {  // c [rows][columns] (+)= wide a times tall b; strides in words, and in floats for c
    const uint32_t* a;
    int64_t a_stride, rows;
    const uint32_t* b;
    int64_t b_stride, pairs;
    float* c;
    int64_t c_stride;
    bool add;
};

template <int ROWS, int VECTORS> inline void multiply_tile(const Product& p, int64_t row, int64_t column) {
    floats sums[ROWS][VECTORS];
    const uint32_t* a[ROWS];
    for (int i = 0; i < ROWS; i++) a[i] = p.a + (row + i < p.rows ? row + i : p.rows - 1) * p.a_stride;
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++)
            sums[i][j] = p.add ? load(p.c + (row + i) * p.c_stride + column + j * LANES) : floats{};
    for (int64_t k = 0; k < p.pairs; k++) {
        words right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load_as<words>(p.b + k * p.b_stride + column + j * LANES);
        for (int i = 0; i < ROWS; i++) {
            words left = words{} + a[i][k];
            for (int j = 0; j < VECTORS; j++) sums[i][j] = add_pairs(sums[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++) store(p.c + (row + i) * p.c_stride + column + j * LANES, sums[i][j]);
}

constexpr int TILE_ROWS = 4;  // c is allocated for rows rounded up to a multiple of this

// `columns` is a multiple of LANES.
inline void multiply(const Product& p, int64_t columns) {
    for (int64_t column = 0; column < columns; column += 4 * LANES)
        for (int64_t row = 0; row < p.rows; row += TILE_ROWS) switch ((columns - column) / LANES) {
                case 1: multiply_tile<TILE_ROWS, 1>(p, row, column); break;
                case 2: multiply_tile<TILE_ROWS, 2>(p, row, column); break;
                case 3: multiply_tile<TILE_ROWS, 3>(p, row, column); break;
                default: multiply_tile<TILE_ROWS, 4>(p, row, column);
            }
}

// One stage of a transposition: rows i and i + WIDTH exchange the off-diagonal blocks of WIDTH lanes.
template <int WIDTH> inline void trade(words* rows) {
#if defined(__AVX512F__)
    alignas(64) static constexpr auto index = [] {
        struct { uint32_t upper[LANES], lower[LANES]; } made{};
        for (int lane = 0; lane < LANES; lane++) {
            made.upper[lane] = lane & WIDTH ? LANES + lane - WIDTH : lane;
            made.lower[lane] = lane & WIDTH ? LANES + lane : lane + WIDTH;
        }
        return made;
    }();
    __m512i upper = load_as<__m512i>(index.upper), lower = load_as<__m512i>(index.lower);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        if (i & WIDTH) continue;
        __m512i a = (__m512i)rows[i], b = (__m512i)rows[i + WIDTH];
        rows[i] = (words)_mm512_permutex2var_epi32(a, upper, b);
        rows[i + WIDTH] = (words)_mm512_permutex2var_epi32(a, lower, b);
    }
#else
    for (int i = 0; i < LANES; i++)
        for (int lane = 0; !(i & WIDTH) && lane < LANES; lane++)
            if (!(lane & WIDTH)) {
                uint32_t kept = rows[i][lane + WIDTH];
                rows[i][lane + WIDTH] = rows[i + WIDTH][lane], rows[i + WIDTH][lane] = kept;
            }
#endif
}

inline void transpose_16(words* rows) {
    trade<8>(rows);
    trade<4>(rows);
    trade<2>(rows);
    trade<1>(rows);
}

// to [columns][rows] = from [rows][columns]; columns a multiple of LANES, rows beyond the last count as 0 up to the
// next multiple of LANES.
inline void transpose(const uint32_t* from, int64_t from_stride, int64_t rows, int64_t columns, uint32_t* to,
                      int64_t to_stride) {
    for (int64_t row = 0; row < rows; row += LANES)
        for (int64_t column = 0; column < columns; column += LANES) {
            words block[LANES];
            for (int i = 0; i < LANES; i++)
                block[i] = row + i < rows ? load_as<words>(from + (row + i) * from_stride + column) : words{};
            transpose_16(block);
            for (int i = 0; i < LANES; i++)
                std::memcpy(to + (column + i) * to_stride + row, &block[i], sizeof(words));
        }
}

// Two rows of 16-bit values as one row of words: the first in the low halves.
inline words interleaved(halves first, halves second) {
    return __builtin_convertvector(first, words) | __builtin_convertvector(second, words) << 16;
}

// to [ceil(rows / 2)][width] = pairs of rows; a missing last row is 0.
inline void interleave(const bf16* from, int64_t stride, int64_t rows, int64_t width, uint32_t* to) {
    for (int64_t row = 0; row < rows; row += 2)
        for (int64_t i = 0; i < width; i += LANES) {
            halves first = load_as<halves>(from + row * stride + i);
            halves second = row + 1 < rows ? load_as<halves>(from + (row + 1) * stride + i) : halves{};
            words pair = interleaved(first, second);
            std::memcpy(to + row / 2 * width + i, &pair, sizeof(pair));
        }
}
