// Small matrix products in bf16 or fp32 with fp32 accumulation, and their packed formats.
//
// An operand consists of words of 32 bits: a float, or, since the bf16 dot product instruction takes pairs, two bf16 that are
// neighbours along the summed dimension. A "tall" operand is words [sum / PER_WORD][columns], a "wide" one words
// [rows][sum / PER_WORD], which a row-major matrix already is.
#pragma once
#include <algorithm>
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

template <class T> constexpr int64_t PER_WORD = sizeof(uint32_t) / sizeof(T);

template <class T> inline const uint32_t* as_words(const T* values) { return (const uint32_t*)values; }

// sum += a * b, of floats or of both bf16 of a word.
template <class T> inline floats add_products(floats sum, words a, words b) {
    return sizeof(T) == sizeof(float) ? fused((floats)a, (floats)b, sum) : add_pairs(sum, a, b);
}

struct Product {  // c [rows][columns] (+)= wide a times tall b; strides in words, and in floats for c
    const uint32_t* a;
    int64_t a_stride, rows;
    const uint32_t* b;
    int64_t b_stride, depth;  // of the summed dimension, in words
    float* c;
    int64_t c_stride;
    bool add;
};

// Accumulators of a small product: with the operands, no more than the processor's 16 or 32 registers.
constexpr int TILE_ROWS = 4;  // c is allocated for rows rounded up to a multiple of this
#if VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int TILE_VECTORS = 4;
#else
constexpr int TILE_VECTORS = 2;
#endif

template <class T, int ROWS, int VECTORS> inline void multiply_tile(const Product& p, int64_t row, int64_t column) {
    floats sums[ROWS][VECTORS];
    const uint32_t* a[ROWS];
    for (int i = 0; i < ROWS; i++) a[i] = p.a + (row + i < p.rows ? row + i : p.rows - 1) * p.a_stride;
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++)
            sums[i][j] = p.add ? load(p.c + (row + i) * p.c_stride + column + j * LANES) : floats{};
    for (int64_t k = 0; k < p.depth; k++) {
        words right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load_as<words>(p.b + k * p.b_stride + column + j * LANES);
        for (int i = 0; i < ROWS; i++) {
            words left = words{} + a[i][k];
            for (int j = 0; j < VECTORS; j++) sums[i][j] = add_products<T>(sums[i][j], left, right[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++) store(p.c + (row + i) * p.c_stride + column + j * LANES, sums[i][j]);
}

// `columns` is a multiple of LANES.
template <class T> inline void multiply(const Product& p, int64_t columns) {
    for (int64_t column = 0; column < columns; column += TILE_VECTORS * LANES)
        for (int64_t row = 0; row < p.rows; row += TILE_ROWS)
            switch (std::min<int64_t>(TILE_VECTORS, (columns - column) / LANES)) {
                case 1: multiply_tile<T, TILE_ROWS, 1>(p, row, column); break;
                case 2: multiply_tile<T, TILE_ROWS, 2>(p, row, column); break;
#if VECTOR_BYTES == 64 || defined(__aarch64__)
                case 3: multiply_tile<T, TILE_ROWS, 3>(p, row, column); break;
                case 4: multiply_tile<T, TILE_ROWS, 4>(p, row, column); break;
#endif
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

// LANES rows of LANES words.
inline void transpose_block(words* rows) {
#if VECTOR_BYTES == 32
    __m256 pair[8], four[8];
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps((__m256)rows[i], (__m256)rows[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps((__m256)rows[i], (__m256)rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        four[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        four[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        four[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        four[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = (words)_mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        rows[i + 4] = (words)_mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
#else
#if VECTOR_BYTES == 64
    trade<8>(rows);
    trade<4>(rows);
#endif
    trade<2>(rows);
    trade<1>(rows);
#endif
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
            transpose_block(block);
            for (int i = 0; i < LANES; i++)
                std::memcpy(to + (column + i) * to_stride + row, &block[i], sizeof(words));
        }
}

// The 16-bit values of two rows as one row of words: the first in the low halves.
inline words interleaved(halves first, halves second) {
    return __builtin_convertvector(first, words) | __builtin_convertvector(second, words) << 16;
}

// LANES columns of a row of words, from the PER_WORD rows it stands for; a second row may be null: 0.
inline words joined(const float* first, const float*) { return load_as<words>(first); }
inline words joined(const bf16* first, const bf16* second) {
    return interleaved(load_as<halves>(first), second ? load_as<halves>(second) : halves{});
}

// to [ceil(rows / PER_WORD)][width] = the words of rows; a missing last row is 0.
template <class T> inline void interleave(const T* from, int64_t stride, int64_t rows, int64_t width, uint32_t* to) {
    for (int64_t row = 0; row < rows; row += PER_WORD<T>)
        for (int64_t i = 0; i < width; i += LANES) {
            const T* at = from + row * stride + i;
            words value = joined(at, row + 1 < rows ? at + stride : nullptr);
            std::memcpy(to + row / PER_WORD<T> * width + i, &value, sizeof(value));
        }
}
