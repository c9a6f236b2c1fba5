// Causal self-attention, forward and backward, a block of query rows at a time (after Dao et al. 2022).
//
// Queries, keys and values are the heads of one tensor [B][T][H + 2 K][d]. Position t attends to starts[t] .. t; key
// blocks that are masked for every row of a query block are skipped. Saved for the backward pass: one float per row.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "team.h"
#include "tiles.h"

constexpr int64_t BLOCK = 32;  // query rows; even, and a multiple of TILE_ROWS

template <class T> struct Heads {
    int64_t batch, time, heads, kv_heads, head_dim;
    const T* qkv;
    const int64_t* starts;  // [B][T], or null: 0 everywhere

    int64_t stride() const { return (heads + 2 * kv_heads) * head_dim; }
    // Row length of whole blocks, plus LANES to avoid a power of 2, with which rows would map to few cache sets.
    int64_t padded() const { return (time + BLOCK - 1) / BLOCK * BLOCK + LANES; }
    int64_t start(int64_t b, int64_t t) const { return starts ? starts[b * time + t] : 0; }
};

// The query rows first .. first + rows - 1 attend to keys left .. right - 1, both multiples of LANES.
struct Block {
    int64_t first, rows, left, right;

    template <class T> Block(const Heads<T>& h, int64_t b, int64_t first) : first(first), rows(std::min(BLOCK, h.time - first)) {
        left = first;
        for (int64_t t = first; t < first + rows; t++) left = std::min(left, h.start(b, t));
        left = left / LANES * LANES;
        right = (first + rows + LANES - 1) / LANES * LANES;
    }
    int64_t keys() const { return right - left; }
};

// Mask of the keys i, i + 1, ... for a row that attends to start .. last.
inline ints visible(int64_t i, int64_t start, int64_t last) {
    ints key = lane_numbers() + (int32_t)i;
    return (ints)(key >= (int32_t)start) & (ints)(key <= (int32_t)last);
}

inline floats masked(floats value, ints mask, float otherwise) { return mask ? value : spread(otherwise); }

// scores [keys] -> e^(scale score - most); returns their sum and the maximum `most`.
template <class T>
inline void softmax_row(const float* scores, T* shares, const Block& block, int64_t start, int64_t last, float scale,
                        float& total, float& most) {
    floats peak = spread(-INFINITY), sums{};
    for (int64_t i = 0; i < block.keys(); i += LANES)
        peak = maximum(peak, masked(load(scores + i), visible(block.left + i, start, last), -INFINITY));
    most = maximum(peak) * scale;
    for (int64_t i = 0; i < block.keys(); i += LANES) {
        floats share = exponential(load(scores + i) * scale - most);
        share = masked(share, visible(block.left + i, start, last), 0.0f);
        sums += share;
        store(shares + i, share);
    }
    total = sum(sums);
}

// out [B][T][H][d]; log_sums [B][H][T]: log of the sum of e^(scale score) over the keys of a row.
template <class T> inline void attention_forward(const Heads<T>& h, T* out, float* log_sums, int64_t threads) {
    int64_t d = h.head_dim, time = h.padded(), group = h.heads / h.kv_heads;
    float scale = 1.0f / std::sqrt((float)d);
    in_parallel(threads, [&](Member& member) {
        Scratch<uint32_t> keys(d / PER_WORD<T> * time), values(time / PER_WORD<T> * d);
        Scratch<float> scores(BLOCK * time), mixed(BLOCK * d);
        Scratch<T> shares(BLOCK * time);
        member.each(h.batch * h.kv_heads, [&](int64_t index) {
            int64_t b = index / h.kv_heads, shared = index % h.kv_heads;
            const T* row = h.qkv + b * h.time * h.stride();
            const T *key = row + (h.heads + shared) * d, *value = key + h.kv_heads * d;
            transpose(as_words(key), h.stride() / PER_WORD<T>, h.time, d / PER_WORD<T>, keys, time);
            std::memset(values.at, 0, time / PER_WORD<T> * d * sizeof(uint32_t));
            interleave(value, h.stride(), h.time, d, values);
            for (int64_t head = shared * group; head < (shared + 1) * group; head++)
                for (int64_t first = 0; first < h.time; first += BLOCK) {
                    Block block(h, b, first);
                    const uint32_t* query = as_words(row + first * h.stride() + head * d);
                    multiply<T>({query, h.stride() / PER_WORD<T>, block.rows, keys + block.left, time, d / PER_WORD<T>,
                                 scores, time, false},
                                block.keys());
                    float totals[BLOCK];
                    for (int64_t i = 0; i < block.rows; i++) {
                        float most;
                        softmax_row(scores + i * time, shares + i * time, block, h.start(b, first + i), first + i, scale,
                                    totals[i], most);
                        log_sums[(b * h.heads + head) * h.time + first + i] = most + std::log(totals[i]);
                    }
                    multiply<T>({as_words(shares.at), time / PER_WORD<T>, block.rows, values + block.left / PER_WORD<T> * d,
                                 d, block.keys() / PER_WORD<T>, mixed, d, false},
                                d);
                    for (int64_t i = 0; i < block.rows; i++)
                        for (int64_t j = 0; j < d; j += LANES)
                            store(out + ((b * h.time + first + i) * h.heads + head) * d + j,
                                  load(mixed + i * d + j) * (1.0f / totals[i]));
                }
        });
    });
}

// Keys and values of one head in all packed formats, and the accumulated gradients, transposed.
template <class T> struct BackwardScratch {
    Scratch<uint32_t> keys, key_rows, values, queries, outers, rows, share_rows, slope_rows;  // as words
    Scratch<float> scores, slopes, query_gradient, key_gradient, value_gradient;
    Scratch<T> slope_values;

    BackwardScratch(int64_t time, int64_t d)
        : keys(words_of(d) * time), key_rows(words_of(time) * d), values(words_of(d) * time), queries(d * words_of(BLOCK)),
          outers(d * words_of(BLOCK)), rows(words_of(BLOCK) * d), share_rows(words_of(BLOCK) * time),
          slope_rows(words_of(BLOCK) * time),
          scores(BLOCK * time), slopes(BLOCK * time), query_gradient(BLOCK * d), key_gradient(d * time),
          value_gradient(d * time), slope_values(BLOCK * time) {}

    static int64_t words_of(int64_t values) { return (values + PER_WORD<T> - 1) / PER_WORD<T>; }
};

template <class T> struct Backward {
    const Heads<T>& h;
    const T *out, *outer;  // [B][T][H][d]: the output, and its gradient
    const float* log_sums;
    T* gradient;  // like qkv
};

// Rows of scores and of outer value^T -> softmax and gradients of the scores, as words for the following products.
template <class T>
inline void slopes_of_block(const Backward<T>& w, const BackwardScratch<T>& s, const Block& block, int64_t b, int64_t head) {
    const Heads<T>& h = w.h;
    constexpr int64_t MANY = PER_WORD<T>;
    int64_t d = h.head_dim, time = h.padded();
    float scale = 1.0f / std::sqrt((float)d);
    for (int64_t row = 0; row < BLOCK; row += MANY) {
        float log_sum[MANY] = {}, along[MANY] = {};
        int64_t start[MANY], last[MANY];
        for (int64_t k = 0; k < MANY; k++) {
            int64_t t = block.first + row + k;
            bool there = row + k < block.rows;
            start[k] = there ? h.start(b, t) : 1, last[k] = there ? t : 0;
            if (!there) continue;
            log_sum[k] = w.log_sums[(b * h.heads + head) * h.time + t];
            const T *out = w.out + ((b * h.time + t) * h.heads + head) * d, *outer = w.outer + (out - w.out);
            floats product{};
            for (int64_t j = 0; j < d; j += LANES) product = fused(load(out + j), load(outer + j), product);
            along[k] = sum(product);
        }
        for (int64_t i = 0; i < block.keys(); i += LANES) {
            T shares[2][LANES];
            for (int64_t k = 0; k < MANY; k++) {
                int64_t at = (row + k) * time + i;
                floats share = exponential(load(s.scores + at) * scale - log_sum[k]);
                ints seen = visible(block.left + i, start[k], last[k]);
                share = masked(share, seen, 0.0f);
                store(shares[k], share);
                store(s.slope_values + at, masked(share * (load(s.slopes + at) - along[k]) * scale, seen, 0.0f));
            }
            words share = joined(shares[0], shares[1]), slope = joined(s.slope_values + row * time + i,
                                                                       s.slope_values + (row + 1) * time + i);
            std::memcpy(s.share_rows + row / MANY * time + i, &share, sizeof(words));
            std::memcpy(s.slope_rows + row / MANY * time + i, &slope, sizeof(words));
        }
    }
}

// One block of query rows: writes the gradient of queries, adds to those of keys and values.
template <class T>
inline void backward_block(const Backward<T>& w, const BackwardScratch<T>& s, const Block& block, int64_t b, int64_t head) {
    const Heads<T>& h = w.h;
    constexpr int64_t MANY = PER_WORD<T>;
    int64_t d = h.head_dim, time = h.padded(), keys = block.keys(), left = block.left;
    int64_t place = (b * h.time + block.first) * h.stride() + head * d, outer_stride = h.heads * d;
    const T* query = h.qkv + place;
    const T* outer = w.outer + ((b * h.time + block.first) * h.heads + head) * d;
    multiply<T>({as_words(query), h.stride() / MANY, block.rows, s.keys + left, time, d / MANY, s.scores, time, false}, keys);
    multiply<T>({as_words(outer), outer_stride / MANY, block.rows, s.values + left, time, d / MANY, s.slopes, time, false},
                keys);
    slopes_of_block(w, s, block, b, head);
    multiply<T>({as_words(s.slope_values.at), time / MANY, block.rows, s.key_rows + left / MANY * d, d, keys / MANY,
                 s.query_gradient, d, false},
                d);
    for (int64_t i = 0; i < block.rows; i++)
        for (int64_t j = 0; j < d; j += LANES)
            store(w.gradient + place + i * h.stride() + j, load(s.query_gradient + i * d + j));
    int64_t rows = (block.rows + MANY - 1) / MANY, stride = BLOCK / MANY;
    interleave(query, h.stride(), block.rows, d, s.rows);
    transpose(s.rows, d, rows, d, s.queries, stride);
    multiply<T>({s.queries, stride, d, s.slope_rows, time, rows, s.key_gradient + left, time, true}, keys);
    interleave(outer, outer_stride, block.rows, d, s.rows);
    transpose(s.rows, d, rows, d, s.outers, stride);
    multiply<T>({s.outers, stride, d, s.share_rows, time, rows, s.value_gradient + left, time, true}, keys);
}

// sums [d][time] -> rows.
template <class T>
inline void store_transposed(const float* sums, int64_t sums_stride, int64_t time, int64_t d, T* to, int64_t stride) {
    for (int64_t t = 0; t < time; t += LANES)
        for (int64_t j = 0; j < d; j += LANES) {
            words block[LANES];
            for (int i = 0; i < LANES; i++) block[i] = load_as<words>(sums + (j + i) * sums_stride + t);
            transpose_block(block);
            for (int i = 0; i < LANES && t + i < time; i++) store(to + (t + i) * stride + j, (floats)block[i]);
        }
}

template <class T> inline void attention_backward(const Backward<T>& w, int64_t threads) {
    const Heads<T>& h = w.h;
    int64_t d = h.head_dim, time = h.padded(), group = h.heads / h.kv_heads;
    in_parallel(threads, [&](Member& member) {
        BackwardScratch<T> s(time, d);
        member.each(h.batch * h.kv_heads, [&](int64_t index) {
            int64_t b = index / h.kv_heads, shared = index % h.kv_heads;
            int64_t key_place = b * h.time * h.stride() + (h.heads + shared) * d, value_place = key_place + h.kv_heads * d;
            const T *key = h.qkv + key_place, *value = h.qkv + value_place;
            transpose(as_words(key), h.stride() / PER_WORD<T>, h.time, d / PER_WORD<T>, s.keys, time);
            transpose(as_words(value), h.stride() / PER_WORD<T>, h.time, d / PER_WORD<T>, s.values, time);
            std::memset(s.key_rows.at, 0, time / PER_WORD<T> * d * sizeof(uint32_t));
            interleave(key, h.stride(), h.time, d, s.key_rows);
            std::fill_n(s.key_gradient.at, d * time, 0.0f);
            std::fill_n(s.value_gradient.at, d * time, 0.0f);
            for (int64_t head = shared * group; head < (shared + 1) * group; head++)
                for (int64_t first = 0; first < h.time; first += BLOCK)
                    backward_block(w, s, Block(h, b, first), b, head);
            store_transposed<T>(s.key_gradient, time, h.time, d, w.gradient + key_place, h.stride());
            store_transposed<T>(s.value_gradient, time, h.time, d, w.gradient + value_place, h.stride());
        });
    });
}
