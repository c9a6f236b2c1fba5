// Causal attention of new tokens over the paged cache (Vaswani et al. 2017, eq. 1; paging: Kwon et al. 2023).
//
// A page holds 16 positions of every key/value head: keys [K][d][16], so that a vector meets neighbouring positions; values
// [K][16][d]. Query heads and tokens that share a key head are taken four at a time, so that a key is read once for four.
// Every sum runs in one fixed order, whatever shares the work.
#pragma once
#include <algorithm>
#include <cmath>
#include "vectors.h"

constexpr int PAGE = 16;
constexpr int MAX_QUERIES = 4;

// As many sums at a time as registers allow: few would wait for each other. PARTS belong to one score, so their number is the
// same for any number of queries, as every order of summation; vectors of positions or dimensions at once are not.
constexpr int PARTS = VECTOR_BYTES == 64 ? 4 : 2;
constexpr int positions_at_once(int queries) { return queries <= 2 ? PAGE / LANES : 1; }
constexpr int dimensions_at_once(int queries) { return VECTOR_BYTES == 64 ? 4 : queries == 1 ? 8 : queries == 2 ? 4 : 2; }

template <class C> struct Cache {
    const C *keys, *values;  // one layer
    const int32_t* pages;    // of this row
    int64_t kv_heads, head_dim, head;

    int64_t offset(int64_t block) const { return (pages[block] * kv_heads + head) * head_dim * PAGE; }
    int64_t block_bytes() const { return head_dim * PAGE * sizeof(C); }
};

// Scores of R queries against positions [0, length), then their softmax, in place; masked positions become 0.
template <int R, class C>
inline void weigh(const Cache<C>& cache, const float* const* queries, const int64_t* lengths, int64_t length,
                  float* scores, int64_t stride) {
    for (int64_t block = 0; block * PAGE < length; block++) {
        const C* keys = cache.keys + cache.offset(block);
        if ((block + 1) * PAGE < length) prefetch(cache.keys + cache.offset(block + 1), cache.block_bytes());
        constexpr int MANY = positions_at_once(R);
        for (int at = 0; at < PAGE; at += MANY * LANES) {
            floats sums[R][MANY][PARTS] = {};
            for (int64_t i = 0; i < cache.head_dim; i += PARTS)
                for (int part = 0; part < PARTS; part++)
                    for (int v = 0; v < MANY; v++) {
                        floats key = load(keys + (i + part) * PAGE + at + v * LANES);
                        for (int r = 0; r < R; r++)
                            sums[r][v][part] = fused(spread(queries[r][i + part]), key, sums[r][v][part]);
                    }
            for (int r = 0; r < R; r++)
                for (int v = 0; v < MANY; v++) {
                    floats total = sums[r][v][0] + sums[r][v][1];
                    if (PARTS == 4) total += sums[r][v][PARTS - 2] + sums[r][v][PARTS - 1];
                    store(scores + r * stride + block * PAGE + at + v * LANES, total);
                }
        }
    }
    int64_t padded = (length + PAGE - 1) / PAGE * PAGE;
    for (int r = 0; r < R; r++) {
        float* row = scores + r * stride;
        std::fill(row + lengths[r], row + padded, -INFINITY);
        floats largest = spread(-INFINITY), total = {};
        for (int64_t s = 0; s < padded; s += LANES) largest = maximum(largest, load(row + s));
        floats top = spread(maximum(largest));
        for (int64_t s = 0; s < padded; s += LANES) {
            floats weight = exponential(load(row + s) - top);
            store(row + s, weight);
            total += weight;
        }
        float inverse = 1.0f / sum(total);
        for (int64_t s = 0; s < padded; s += LANES) store(row + s, load(row + s) * inverse);
    }
}

// out[r] = sum over positions of weight * value, for V vectors of dimensions from `first`.
template <int R, int V, class C, class Out>
inline void mix(const Cache<C>& cache, const float* weights, int64_t stride, int64_t length, int64_t first, Out* const* out) {
    floats sums[R][V] = {};
    for (int64_t block = 0; block * PAGE < length; block++) {
        const C* value = cache.values + cache.offset(block) + first;
        if ((block + 1) * PAGE < length) prefetch(cache.values + cache.offset(block + 1), cache.block_bytes());
        for (int64_t s = block * PAGE; s < std::min(length, (block + 1) * PAGE); s++, value += cache.head_dim)
            for (int v = 0; v < V; v++) {
                floats part = load(value + v * LANES);
                for (int r = 0; r < R; r++) sums[r][v] = fused(spread(weights[r * stride + s]), part, sums[r][v]);
            }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(out[r] + first + v * LANES, sums[r][v]);
}

// R queries [d], already divided by sqrt(d), each over its own number of positions; `scores` has R x stride floats.
template <int R, class C, class Out>
inline void attend(const Cache<C>& cache, const float* const* queries, const int64_t* lengths, float* scores,
                   int64_t stride, Out* const* out) {
    int64_t length = *std::max_element(lengths, lengths + R);
    weigh<R>(cache, queries, lengths, length, scores, stride);
    int64_t first = 0;
    constexpr int MANY = dimensions_at_once(R);
    for (; first + MANY * LANES <= cache.head_dim; first += MANY * LANES)
        mix<R, MANY>(cache, scores, stride, length, first, out);
    for (; first < cache.head_dim; first += LANES) mix<R, 1>(cache, scores, stride, length, first, out);
}
