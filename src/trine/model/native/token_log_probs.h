// Log-probabilities and entropies of one chunk of logits, and their gradient, which overwrites the logits.
#pragma once
#include "cross_entropy.h"

// How far scaled logits are below the largest: of a logit of -infinity a number whose product with p = 0 is 0. NaN stays NaN.
inline floats below_largest(floats x, float scale, float largest) {
    return maximum(spread(-1e30f), x * scale - largest);
}

// log_probs[row] = log p(target), entropies[row] = - sum p log p, p = softmax(scale * logits) = exp(x - largest) / total:
// exact to a rounding or two whatever the size of the logits, which exp(x - log sum exp) is not.
template <class T>
void token_log_probs_forward(const T* logits, const int64_t* targets, float* log_probs, float* entropies,
                             float* largest, float* totals, int64_t rows, int64_t width, float scale, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t index = first; index < last; index++) {
            const T* row = logits + index * width;
            floats most = spread(-INFINITY), total{}, weighted{};
            along_row(row, width, [&](int64_t, floats x, int64_t) { most = maximum(most, x); });
            float shift = maximum(most) * scale;
            along_row(row, width, [&](int64_t, floats x, int64_t) {
                floats below = below_largest(x, scale, shift), weight = exponential(below);
                total += weight;
                weighted += weight * below;
            });
            float of_all = sum(total);
            largest[index] = shift, totals[index] = of_all;
            entropies[index] = std::log(of_all) - sum(weighted) / of_all;
            log_probs[index] = load_some(row + targets[index], 1, 0.0f)[0] * scale - shift - std::log(of_all);
        }
    });
}

// d log p(target) / d logits = scale * (onehot - p); d entropy / d logits = -scale * p * (log p + entropy).
template <class T>
void token_log_probs_backward(T* logits, const int64_t* targets, const float* largest, const float* totals,
                              const float* entropies, const float* log_prob_gradients, const float* entropy_gradients,
                              int64_t rows, int64_t width, float scale, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t index = first; index < last; index++) {
            T *row = logits + index * width, *at = row + targets[index];
            float outer = scale * log_prob_gradients[index], shift = largest[index];
            float inverse = 1.0f / totals[index], log_total = std::log(totals[index]);
            float of_entropy = scale * entropy_gradients[index], entropy = entropies[index];
            auto gradient = [&](floats x) {
                floats below = below_largest(x, scale, shift);
                return exponential(below) * inverse * (-outer - of_entropy * (below - log_total + entropy));
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
