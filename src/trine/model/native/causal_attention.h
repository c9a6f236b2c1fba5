// Causal self-attention in bf16, forward and backward, a block of query rows at a time (after Dao et al. 2022).
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

struct Heads {
    int64_t batch, time, heads, kv_heads, head_dim;
    const bf16* qkv;
    const int64_t* starts;  // [B][T], or null: 0 everywhere

    int64_t stride() const { return (heads + 2 * kv_heads) * head_dim; }
    // Row length of whole blocks, plus LANES to avoid a power of 2, with which rows would map to few cache sets.
    int64_t padded() const { return (time + BLOCK - 1) / BLOCK * BLOCK + LANES; }
    int64_t start(int64_t b, int64_t t) const { return starts ? starts[b * time + t] : 0; }
};

// The query rows first .. first + rows - 1 attend to keys left .. right - 1, both multiples of LANES.
struct Block {
    int64_t first, rows, left, right;

    Block(const Heads& h, int64_t b, int64_t first) : first(first), rows(std::min(BLOCK, h.time - first)) {
        left = first;
        for (int64_t t = first; t < first + rows; t++) left = std::min(left, h.start(b, t));
        left = left / LANES * LANES;
        right = (first + rows + LANES - 1) / LANES * LANES;
    }
    int64_t keys() const { return right - left; }
};

inline const uint32_t* as_words(const bf16* values) { return (const uint32_t*)values; }

// Mask of the keys i .. i + 15 for a row that attends to start .. last.
inline ints visible(int64_t i, int64_t start, int64_t last) {
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ints key = lane + (int32_t)i;
    return (ints)(key >= (int32_t)start) & (ints)(key <= (int32_t)last);
}

inline floats masked(floats value, ints mask, float otherwise) { return mask ? value : spread(otherwise); }

// scores [keys] -> e^(scale score - most) as bf16; returns their sum and the maximum `most`.
inline void softmax_row(const float* scores, bf16* shares, const Block& block, int64_t start, int64_t last, float scale,
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
inline void attention_forward(const Heads& h, bf16* out, float* log_sums, int64_t threads) {
    int64_t d = h.head_dim, time = h.padded(), group = h.heads / h.kv_heads;
    float scale = 1.0f / std::sqrt((float)d);
    in_parallel(threads, [&](Member& member) {
        Scratch<uint32_t> keys(d / 2 * time), values(time / 2 * d);
        Scratch<float> scores(BLOCK * time), mixed(BLOCK * d);
        Scratch<bf16> shares(BLOCK * time);
        member.each(h.batch * h.kv_heads, [&](int64_t index) {
            int64_t b = index / h.kv_heads, shared = index % h.kv_heads;
            const bf16* row = h.qkv + b * h.time * h.stride();
            const bf16 *key = row + (h.heads + shared) * d, *value = key + h.kv_heads * d;
            transpose(as_words(key), h.stride() / 2, h.time, d / 2, keys, time);
            std::memset(values.at, 0, time / 2 * d * sizeof(uint32_t));
            interleave(value, h.stride(), h.time, d, values);
            for (int64_t head = shared * group; head < (shared + 1) * group; head++)
                for (int64_t first = 0; first < h.time; first += BLOCK) {
                    Block block(h, b, first);
                    const uint32_t* query = as_words(row + first * h.stride() + head * d);
                    multiply({query, h.stride() / 2, block.rows, keys + block.left, time, d / 2, scores, time, false},
                             block.keys());
                    float totals[BLOCK];
                    for (int64_t i = 0; i < block.rows; i++) {
                        float most;
                        softmax_row(scores + i * time, shares + i * time, block, h.start(b, first + i), first + i, scale,
                                    totals[i], most);
                        log_sums[(b * h.heads + head) * h.time + first + i] = most + std::log(totals[i]);
                    }
                    multiply({as_words(shares), time / 2, block.rows, values + block.left / 2 * d, d, block.keys() / 2,
                              mixed, d, false},
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
struct BackwardScratch {
    Scratch<uint32_t> keys, key_pairs, values, queries, outers, pairs, share_pairs, slope_pairs;
    Scratch<float> scores, slopes, query_gradient, key_gradient, value_gradient;
    Scratch<bf16> slope_rows;

    BackwardScratch(int64_t time, int64_t d)
        : keys(d / 2 * time), key_pairs(time / 2 * d), values(d / 2 * time), queries(d * BLOCK / 2),
          outers(d * BLOCK / 2), pairs(BLOCK / 2 * d), share_pairs(BLOCK / 2 * time), slope_pairs(BLOCK / 2 * time),
          scores(BLOCK * time), slopes(BLOCK * time), query_gradient(BLOCK * d), key_gradient(d * time),
          value_gradient(d * time), slope_rows(BLOCK * time) {}
};

struct Backward {
    const Heads& h;
    const bf16 *out, *outer;  // [B][T][H][d]: the output, and its gradient
    const float* log_sums;
    bf16* gradient;  // like qkv
};

// Rows of scores and of outer value^T -> softmax and gradients of the scores, packed for the following products.
inline void slopes_of_block(const Backward& w, const BackwardScratch& s, const Block& block, int64_t b, int64_t head) {
    const Heads& h = w.h;
    int64_t d = h.head_dim, time = h.padded();
    float scale = 1.0f / std::sqrt((float)d);
    for (int64_t row = 0; row < BLOCK; row += 2) {
        float log_sum[2] = {}, along[2] = {};
        int64_t start[2], last[2];
        for (int64_t k = 0; k < 2; k++) {
            int64_t t = block.first + row + k;
            bool there = row + k < block.rows;
            start[k] = there ? h.start(b, t) : 1, last[k] = there ? t : 0;
            if (!there) continue;
            log_sum[k] = w.log_sums[(b * h.heads + head) * h.time + t];
            const bf16 *out = w.out + ((b * h.time + t) * h.heads + head) * d, *outer = w.outer + (out - w.out);
            floats product{};
            for (int64_t j = 0; j < d; j += LANES) product = fused(load(out + j), load(outer + j), product);
            along[k] = sum(product);
        }
        for (int64_t i = 0; i < block.keys(); i += LANES) {
            halves shares[2], slopes[2];
            for (int64_t k = 0; k < 2; k++) {
                int64_t at = (row + k) * time + i;
                floats share = exponential(load(s.scores + at) * scale - log_sum[k]);
                ints seen = visible(block.left + i, start[k], last[k]);
                share = masked(share, seen, 0.0f);
                floats slope = masked(share * (load(s.slopes + at) - along[k]) * scale, seen, 0.0f);
                store((bf16*)&shares[k], share);
                store((bf16*)&slopes[k], slope);
                std::memcpy(s.slope_rows + at, &slopes[k], sizeof(halves));
            }
            words share_pair = interleaved(shares[0], shares[1]), slope_pair = interleaved(slopes[0], slopes[1]);
            std::memcpy(s.share_pairs + row / 2 * time + i, &share_pair, sizeof(words));
            std::memcpy(s.slope_pairs + row / 2 * time + i, &slope_pair, sizeof(words));
        }
    }
}

// One block of query rows: writes the gradient of queries, adds to those of keys and values.
inline void backward_block(const Backward& w, const BackwardScratch& s, const Block& block, int64_t b, int64_t head) {
    const Heads& h = w.h;
    int64_t d = h.head_dim, time = h.padded(), keys = block.keys(), left = block.left;
    int64_t place = (b * h.time + block.first) * h.stride() + head * d;
    const bf16* query = h.qkv + place;
    const bf16* outer = w.outer + ((b * h.time + block.first) * h.heads + head) * d;
    int64_t outer_stride = h.heads * d;
    multiply({as_words(query), h.stride() / 2, block.rows, s.keys + left, time, d / 2, s.scores, time, false}, keys);
    multiply({as_words(outer), outer_stride / 2, block.rows, s.values + left, time, d / 2, s.slopes, time, false}, keys);
    slopes_of_block(w, s, block, b, head);
    multiply({as_words(s.slope_rows), time / 2, block.rows, s.key_pairs + left / 2 * d, d, keys / 2, s.query_gradient, d,
              false},
             d);
    for (int64_t i = 0; i < block.rows; i++)
        for (int64_t j = 0; j < d; j += LANES)
            store(w.gradient + place + i * h.stride() + j, load(s.query_gradient + i * d + j));
    int64_t pairs = (block.rows + 1) / 2;
    interleave(query, h.stride(), block.rows, d, s.pairs);
    transpose(s.pairs, d, pairs, d, s.queries, BLOCK / 2);
    multiply({s.queries, BLOCK / 2, d, s.slope_pairs, time, pairs, s.key_gradient + left, time, true}, keys);
    interleave(outer, outer_stride, block.rows, d, s.pairs);
    transpose(s.pairs, d, pairs, d, s.outers, BLOCK / 2);
    multiply({s.outers, BLOCK / 2, d, s.share_pairs, time, pairs, s.value_gradient + left, time, true}, keys);
}

// sums [d][time] -> rows of bf16.
inline void store_transposed(const float* sums, int64_t sums_stride, int64_t time, int64_t d, bf16* to, int64_t stride) {
    for (int64_t t = 0; t < time; t += LANES)
        for (int64_t j = 0; j < d; j += LANES) {
            words block[LANES];
            for (int i = 0; i < LANES; i++) block[i] = load_as<words>(sums + (j + i) * sums_stride + t);
            transpose_16(block);
            for (int i = 0; i < LANES && t + i < time; i++) store(to + (t + i) * stride + j, (floats)block[i]);
        }
}

inline void attention_backward(const Backward& w, int64_t threads) {
    const Heads& h = w.h;
    int64_t d = h.head_dim, time = h.padded(), group = h.heads / h.kv_heads;
    in_parallel(threads, [&](Member& member) {
        BackwardScratch s(time, d);
        member.each(h.batch * h.kv_heads, [&](int64_t index) {
            int64_t b = index / h.kv_heads, shared = index % h.kv_heads;
            int64_t key_place = b * h.time * h.stride() + (h.heads + shared) * d, value_place = key_place + h.kv_heads * d;
            const bf16 *key = h.qkv + key_place, *value = h.qkv + value_place;
            transpose(as_words(key), h.stride() / 2, h.time, d / 2, s.keys, time);
            transpose(as_words(value), h.stride() / 2, h.time, d / 2, s.values, time);
            std::memset(s.key_pairs.at, 0, time / 2 * d * sizeof(uint32_t));
            interleave(key, h.stride(), h.time, d, s.key_pairs);
            std::fill_n(s.key_gradient.at, d * time, 0.0f);
            std::fill_n(s.value_gradient.at, d * time, 0.0f);
            for (int64_t head = shared * group; head < (shared + 1) * group; head++)
                for (int64_t first = 0; first < h.time; first += BLOCK)
                    backward_block(w, s, Block(h, b, first), b, head);
            store_transposed(s.key_gradient, time, h.time, d, w.gradient + key_place, h.stride());
            store_transposed(s.value_gradient, time, h.time, d, w.gradient + value_place, h.stride());
        });
    });
}
