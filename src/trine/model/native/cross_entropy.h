// Cross-entropy of one chunk of logits; the gradient overwrites the logits.
#pragma once
#include "norms.h"

// Loads the last, incomplete vector of a row, padded with `filler`.
template <class T> inline floats load_some(const T* source, int64_t count, float filler) {
    float values[LANES];
    for (int64_t i = 0; i < LANES; i++) values[i] = filler;
    T few[LANES] = {};
    std::memcpy(few, source, count * sizeof(T));
    floats loaded = load(few);
    for (int64_t i = 0; i < count; i++) values[i] = loaded[i];
    return load(values);
}

template <class T> inline void store_some(T* target, int64_t count, floats value) {
    T all[LANES];
    store(all, value);
    std::memcpy(target, all, count * sizeof(T));
}

// Calls work(index, values, count) along a row; values beyond the row are -infinity.
template <class T, class Work> inline void along_row(const T* row, int64_t width, Work work) {
    int64_t whole = width / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) work(i, load(row + i), LANES);
    if (whole < width) work(whole, load_some(row + whole, width - whole, -INFINITY), width - whole);
}

template <class T> inline float log_sum_exp(const T* row, int64_t width) {
    floats most = spread(-INFINITY), total{};
    along_row(row, width, [&](int64_t, floats x, int64_t) { most = maximum(most, x); });
    float shift = maximum(most);
    along_row(row, width, [&](int64_t, floats x, int64_t) { total += exponential(x - shift); });
    return shift + std::log(sum(total));
}

// losses[row] = scale * (log sum exp - logit[target]); logits become scale * (softmax - onehot).
template <class T>
void cross_entropy(T* logits, const int64_t* targets, const float* scales, double* losses, int64_t rows, int64_t width,
                   int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t index = first; index < last; index++) {
            T *row = logits + index * width, *at = row + targets[index];
            float scale = scales[index], log_sum = log_sum_exp(row, width);
            float target = load_some(at, 1, 0.0f)[0];
            losses[index] = (double)scale * ((double)log_sum - target);
            along_row(row, width, [&](int64_t i, floats x, int64_t count) {
                floats gradient = scale * exponential(x - log_sum);
                if (count == LANES) store(row + i, gradient);
                else store_some(row + i, count, gradient);
            });
            store_some(at, 1, spread(scale * (std::exp(target - log_sum) - 1.0f)));
        }
    });
}
