// Log-probabilities and entropies of one chunk of logits, and their gradient, which overwrites the logits.
#pragma once
#include "cross_entropy.h"

// log p of one vector of a row: of a logit of -infinity a number whose product with p = 0 is 0. NaN stays NaN.
inline floats log_prob(floats x, float scale, float log_sum) { return maximum(spread(-1e30f), x * scale - log_sum); }

// log_probs[row] = log p(target), entropies[row] = - sum p log p, p = softmax(scale * logits);
// log_sums[row] = log sum exp(scale * logits).
template <class T>
void token_log_probs_forward(const T* logits, const int64_t* targets, float* log_probs, float* entropies,
                             float* log_sums, int64_t rows, int64_t width, float scale, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t index = first; index < last; index++) {
            const T* row = logits + index * width;
            floats most = spread(-INFINITY), total{}, weighted{};
            along_row(row, width, [&](int64_t, floats x, int64_t) { most = maximum(most, x); });
            float shift = maximum(most) * scale;
            along_row(row, width, [&](int64_t, floats x, int64_t) {
                floats below = log_prob(x, scale, shift), weight = exponential(below);
                total += weight;
                weighted += weight * below;
            });
            float of_all = sum(total);
            log_sums[index] = shift + std::log(of_all);
            entropies[index] = std::log(of_all) - sum(weighted) / of_all;
            log_probs[index] = load_some(row + targets[index], 1, 0.0f)[0] * scale - log_sums[index];
        }
    });
}

// d log p(target) / d logits = scale * (onehot - p); d entropy / d logits = -scale * p * (log p + entropy).
template <class T>
void token_log_probs_backward(T* logits, const int64_t* targets, const float* log_sums, const float* entropies,
                              const float* log_prob_gradients, const float* entropy_gradients, int64_t rows,
                              int64_t width, float scale, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t index = first; index < last; index++) {
            T *row = logits + index * width, *at = row + targets[index];
            float outer = scale * log_prob_gradients[index], log_sum = log_sums[index];
            float of_entropy = scale * entropy_gradients[index], entropy = entropies[index];
            auto gradient = [&](floats x) {
                floats log_p = log_prob(x, scale, log_sum);
                return exponential(log_p) * (-outer - of_entropy * (log_p + entropy));
            };
            floats target = load_some(at, 1, -INFINITY);
            along_row(row, width, [&](int64_t i, floats x, int64_t count) {
                if (count == LANES) store(row + i, gradient(x));
                else store_some(row + i, count, gradient(x));
            });
            store_some(at, 1, gradient(target) + outer);
        }
    });
}
