// Sampling a token by inverse CDF: one uniform number of (seed, counter) looked up in the cumulative distribution.
// The mixing function is that of trine/runtime/seeds.py (SplitMix64's finaliser, Steele et al. 2014).
#pragma once
#include <algorithm>
#include <cmath>
#include "vectors.h"

constexpr int64_t SEGMENT = 1024;

inline double uniform(uint64_t seed, uint64_t counter) {
    uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

struct SampledToken {
    int64_t id;  // -1: the logits hold a NaN, or nothing but -inf
    float log_prob;
};

// Lanes past the vocabulary count as -inf.
inline floats logits_at(const float* logits, int64_t index, int64_t vocabulary) {
    floats value = load(logits + index);
    for (int64_t lane = vocabulary - index; lane < LANES; lane++) value[lane] = -INFINITY;
    return value;
}

inline float max_of(const float* logits, int64_t vocabulary) {
    floats largest = spread(-INFINITY);
    for (int64_t i = 0; i < vocabulary; i += LANES) largest = maximum(largest, logits_at(logits, i, vocabulary));
    return maximum(largest);
}

// log softmax(logits / temperature)[target]
inline float log_probability(const float* logits, int64_t vocabulary, float temperature, int64_t target) {
    float top = max_of(logits, vocabulary), inverse = 1.0f / temperature;
    floats total = {};
    for (int64_t i = 0; i < vocabulary; i += LANES)
        total += exponential((logits_at(logits, i, vocabulary) - top) * inverse);
    return (logits[target] - top) * inverse - std::log(sum(total));
}

inline SampledToken sample_token(const float* logits, int64_t vocabulary, float temperature, double point) {
    float top = max_of(logits, vocabulary), inverse = temperature > 0 ? 1.0f / temperature : 1.0f;
    auto weight = [&](int64_t i) { return exponential((logits_at(logits, i, vocabulary) - top) * inverse); };
    auto segment_sum = [&](int64_t start) {
        floats total = {};
        for (int64_t i = start; i < std::min(start + SEGMENT, vocabulary); i += LANES) total += weight(i);
        return (double)sum(total);
    };
    double total = 0;
    for (int64_t start = 0; start < vocabulary; start += SEGMENT) total += segment_sum(start);
    if (!(total > 0) || !std::isfinite(top)) return {-1, 0};
    int64_t id = 0;
    if (temperature <= 0) {
        while (logits[id] != top) id++;
    } else {
        double target = point * total, below = 0;
        int64_t start = 0;
        for (; start + SEGMENT < vocabulary; start += SEGMENT) {
            double next = below + segment_sum(start);
            if (next > target) break;
            below = next;
        }
        id = -1;
        for (int64_t i = start; i < std::min(start + SEGMENT, vocabulary); i += LANES) {
            floats weights = weight(i);
            for (int lane = 0; lane < LANES; lane++) {
                if (weights[lane] <= 0) continue;  // a token of probability 0 is never sampled
                id = i + lane;
                below += weights[lane];
                if (below > target) goto found;
            }
        }
    found:
        if (id < 0) return {-1, 0};
    }
    return {id, (logits[id] - top) * inverse - (float)std::log(total)};
}
