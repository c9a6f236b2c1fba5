// Causal self-attention, forward and backward, a block of query rows at a time (after Dao et al. 2022).
//
// Queries, keys and values are the heads of one tensor [B][T][H + 2 K][d]. Position t attends to starts[t] .. t; or, by
// segments, to the prompt of its row and to its own answer up to itself. Key blocks that are masked for every row of a
// query block are skipped. Saved for the backward pass: one float per row.
//
// Keys and values are packed for the products, those of an answer behind those of its prompt, at a multiple of LANES: what
// an answer gets does not depend on where in the row it stands, to the bit.
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
    const int64_t* starts;    // [B][T], or null: 0 everywhere
    const int64_t* segments;  // [B][T], or null: 0 the prompt, at the beginning of a row; 1, 2, ... its answers; -1 padding

    int64_t stride() const { return (heads + 2 * kv_heads) * head_dim; }
    // Row length of whole blocks and of an answer's beginning, plus LANES to avoid a power of 2, with which rows would map
    // to few cache sets.
    int64_t padded() const { return (time + BLOCK - 1) / BLOCK * BLOCK + (segments ? 2 * LANES : LANES); }
    int64_t prompt(int64_t b) const {
        int64_t t = 0;
        while (segments && t < time && segments[b * time + t] == 0) t++;
        return t;
    }
};

inline int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// Positions begin .. end - 1, which attend to the first `prompt` positions of their row and to their own segment.
struct Segment {
    int64_t begin, end, prompt;

    int64_t rows() const { return end - begin; }
    // Where its keys stand among the packed ones, behind those of the prompt.
    int64_t own() const { return whole_vectors(prompt); }
    int64_t packed(int64_t t) const { return own() + t - begin; }
};

// The segments of a row: all of it; or the prompt and each answer. What belongs to none of them is padding.
template <class T, class Each> inline void each_segment(const Heads<T>& h, int64_t b, Each each) {
    if (!h.segments) return each(Segment{0, h.time, 0});
    const int64_t *of = h.segments + b * h.time, prompt = h.prompt(b);
    if (prompt) each(Segment{0, prompt, 0});
    for (int64_t begin = prompt, end; begin < h.time; begin = end) {
        for (end = begin + 1; end < h.time && of[end] == of[begin];) end++;
        if (of[begin] > 0) each(Segment{begin, end, prompt});
    }
}

// What a query sees among the packed keys: the first `prompt`, and start .. last.
struct Mask {
    int32_t prompt, start, last;

    template <class T> Mask(const Heads<T>& h, int64_t b, const Segment& segment, int64_t t)
        : prompt((int32_t)segment.prompt), start((int32_t)(h.starts ? h.starts[b * h.time + t] : segment.own())),
          last((int32_t)segment.packed(t)) {}
    Mask() : prompt(0), start(1), last(0) {}  // nothing

    // Mask of the keys i, i + 1, ...
    ints of(int64_t i) const {
        ints key = lane_numbers() + (int32_t)i;
        return (ints)(key < prompt) | ((ints)(key >= start) & (ints)(key <= last));
    }
};

// The query rows first .. first + rows - 1 attend to packed keys left .. right - 1, both multiples of LANES.
struct Block {
    int64_t first, rows, left, right;

    template <class T> Block(const Heads<T>& h, int64_t b, const Segment& segment, int64_t first)
        : first(first), rows(std::min(BLOCK, segment.end - first)), left(segment.packed(first)) {
        for (int64_t t = first; t < first + rows; t++) left = std::min<int64_t>(left, Mask(h, b, segment, t).start);
        left = segment.prompt ? 0 : left / LANES * LANES;
        right = segment.own() + whole_vectors(first - segment.begin + rows);
    }
    int64_t keys() const { return right - left; }
};

inline floats masked(floats value, ints mask, float otherwise) { return mask ? value : spread(otherwise); }

// scores [keys] -> e^(scale score - most); returns their sum and the maximum `most`.
template <class T>
inline void softmax_row(const float* scores, T* shares, const Block& block, const Mask& mask, float scale, float& total,
                        float& most) {
    floats peak = spread(-INFINITY), sums{};
    for (int64_t i = 0; i < block.keys(); i += LANES)
        peak = maximum(peak, masked(load(scores + i), mask.of(block.left + i), -INFINITY));
    most = maximum(peak) * scale;
    for (int64_t i = 0; i < block.keys(); i += LANES) {
        floats share = exponential(load(scores + i) * scale - most);
        share = masked(share, mask.of(block.left + i), 0.0f);
        sums += share;
        store(shares + i, share);
    }
    total = sum(sums);
}

// The words of the rows of a segment at its place among the packed ones; rows up to a whole vector are 0.
template <class T>
inline void interleave_segment(const T* rows, int64_t stride, const Segment& segment, int64_t d, uint32_t* to) {
    to += segment.own() / PER_WORD<T> * d;
    std::memset(to, 0, whole_vectors(segment.rows()) / PER_WORD<T> * d * sizeof(uint32_t));
    interleave(rows + segment.begin * stride, stride, segment.rows(), d, to);
}

template <class T>
inline void transpose_segment(const T* rows, int64_t stride, const Segment& segment, int64_t d, uint32_t* to, int64_t time) {
    const uint32_t* from = as_words(rows + segment.begin * stride);
    transpose(from, stride / PER_WORD<T>, segment.rows(), d / PER_WORD<T>, to + segment.own(), time);
}

// Keys and values of one head, packed, and room for a block.
template <class T> struct ForwardScratch {
    Scratch<uint32_t> keys, values;
    Scratch<float> scores, mixed;
    Scratch<T> shares;

    ForwardScratch(int64_t time, int64_t d)
        : keys(d / PER_WORD<T> * time), values(time / PER_WORD<T> * d), scores(BLOCK * time), mixed(BLOCK * d),
          shares(BLOCK * time) {}
};

template <class T>
inline void forward_block(const Heads<T>& h, const ForwardScratch<T>& s, const Segment& segment, const Block& block,
                          int64_t b, int64_t head, T* out, float* log_sums) {
    int64_t d = h.head_dim, time = h.padded();
    float scale = 1.0f / std::sqrt((float)d), totals[BLOCK];
    const uint32_t* query = as_words(h.qkv + (b * h.time + block.first) * h.stride() + head * d);
    multiply<T>({query, h.stride() / PER_WORD<T>, block.rows, s.keys + block.left, time, d / PER_WORD<T>, s.scores, time,
                 false},
                block.keys());
    for (int64_t i = 0; i < block.rows; i++) {
        float most;
        softmax_row(s.scores + i * time, s.shares + i * time, block, Mask(h, b, segment, block.first + i), scale, totals[i],
                    most);
        log_sums[(b * h.heads + head) * h.time + block.first + i] = most + std::log(totals[i]);
    }
    multiply<T>({as_words(s.shares.at), time / PER_WORD<T>, block.rows, s.values + block.left / PER_WORD<T> * d, d,
                 block.keys() / PER_WORD<T>, s.mixed, d, false},
                d);
    for (int64_t i = 0; i < block.rows; i++)
        for (int64_t j = 0; j < d; j += LANES)
            store(out + ((b * h.time + block.first + i) * h.heads + head) * d + j,
                  load(s.mixed + i * d + j) * (1.0f / totals[i]));
}

// out [B][T][H][d], 0 at padding; log_sums [B][H][T]: log of the sum of e^(scale score) over the keys of a row.
template <class T> inline void attention_forward(const Heads<T>& h, T* out, float* log_sums, int64_t threads) {
    int64_t d = h.head_dim, time = h.padded(), group = h.heads / h.kv_heads;
    if (h.segments) std::memset((void*)out, 0, h.batch * h.time * h.heads * d * sizeof(T));
    in_parallel(threads, [&](Member& member) {
        ForwardScratch<T> s(time, d);
        member.each(h.batch * h.kv_heads, [&](int64_t index) {
            int64_t b = index / h.kv_heads, shared = index % h.kv_heads;
            const T* key = h.qkv + b * h.time * h.stride() + (h.heads + shared) * d;
            each_segment(h, b, [&](const Segment& segment) {
                transpose_segment(key, h.stride(), segment, d, s.keys, time);
                interleave_segment(key + h.kv_heads * d, h.stride(), segment, d, s.values);
                for (int64_t head = shared * group; head < (shared + 1) * group; head++)
                    for (int64_t first = segment.begin; first < segment.end; first += BLOCK)
                        forward_block(h, s, segment, Block(h, b, segment, first), b, head, out, log_sums);
            });
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
inline void slopes_of_block(const Backward<T>& w, const BackwardScratch<T>& s, const Segment& segment, const Block& block,
                            int64_t b, int64_t head) {
    const Heads<T>& h = w.h;
    constexpr int64_t MANY = PER_WORD<T>;
    int64_t d = h.head_dim, time = h.padded();
    float scale = 1.0f / std::sqrt((float)d);
    for (int64_t row = 0; row < BLOCK; row += MANY) {
        float log_sum[MANY] = {}, along[MANY] = {};
        Mask masks[MANY];
        for (int64_t k = 0; k < MANY; k++) {
            int64_t t = block.first + row + k;
            bool there = row + k < block.rows;
            if (!there) continue;
            masks[k] = Mask(h, b, segment, t);
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
                ints seen = masks[k].of(block.left + i);
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
inline void backward_block(const Backward<T>& w, const BackwardScratch<T>& s, const Segment& segment, const Block& block,
                           int64_t b, int64_t head) {
    const Heads<T>& h = w.h;
    constexpr int64_t MANY = PER_WORD<T>;
    int64_t d = h.head_dim, time = h.padded(), keys = block.keys(), left = block.left;
    int64_t place = (b * h.time + block.first) * h.stride() + head * d, outer_stride = h.heads * d;
    const T* query = h.qkv + place;
    const T* outer = w.outer + ((b * h.time + block.first) * h.heads + head) * d;
    multiply<T>({as_words(query), h.stride() / MANY, block.rows, s.keys + left, time, d / MANY, s.scores, time, false}, keys);
    multiply<T>({as_words(outer), outer_stride / MANY, block.rows, s.values + left, time, d / MANY, s.slopes, time, false},
                keys);
    slopes_of_block(w, s, segment, block, b, head);
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

// The packed rows of a segment, and its gradients begun at 0.
template <class T>
inline void pack_segment(const BackwardScratch<T>& s, const T* key, const T* value, int64_t stride, const Segment& segment,
                         int64_t d, int64_t time) {
    transpose_segment(key, stride, segment, d, s.keys, time);
    transpose_segment(value, stride, segment, d, s.values, time);
    interleave_segment(key, stride, segment, d, s.key_rows);
    for (int64_t j = 0; j < d; j++) {
        std::fill_n(s.key_gradient + j * time + segment.own(), whole_vectors(segment.rows()), 0.0f);
        std::fill_n(s.value_gradient + j * time + segment.own(), whole_vectors(segment.rows()), 0.0f);
    }
}

template <class T> inline void attention_backward(const Backward<T>& w, int64_t threads) {
    const Heads<T>& h = w.h;
    int64_t d = h.head_dim, time = h.padded(), group = h.heads / h.kv_heads;
    if (h.segments) std::memset((void*)w.gradient, 0, h.batch * h.time * h.stride() * sizeof(T));
    in_parallel(threads, [&](Member& member) {
        BackwardScratch<T> s(time, d);
        member.each(h.batch * h.kv_heads, [&](int64_t index) {
            int64_t b = index / h.kv_heads, shared = index % h.kv_heads, prompt = h.prompt(b);
            int64_t key_place = b * h.time * h.stride() + (h.heads + shared) * d, value_place = key_place + h.kv_heads * d;
            auto store = [&](const Segment& segment) {
                int64_t rows = segment.rows();
                T* to = w.gradient + segment.begin * h.stride();
                store_transposed<T>(s.key_gradient + segment.own(), time, rows, d, to + key_place, h.stride());
                store_transposed<T>(s.value_gradient + segment.own(), time, rows, d, to + value_place, h.stride());
            };
            each_segment(h, b, [&](const Segment& segment) {
                pack_segment(s, h.qkv + key_place, h.qkv + value_place, h.stride(), segment, d, time);
                for (int64_t head = shared * group; head < (shared + 1) * group; head++)
                    for (int64_t first = segment.begin; first < segment.end; first += BLOCK)
                        backward_block(w, s, segment, Block(h, b, segment, first), b, head);
                if (segment.begin >= prompt) store(segment);
            });
            if (prompt) store(Segment{0, prompt, 0});  // to which every answer has added
        });
    });
}
