// LayerNorm and RMSNorm with the residual addition before them, forward and backward in one pass each.
#pragma once
#include <cmath>
#include <vector>

#include "team.h"
#include "vectors.h"

// Each of `threads` parts is a contiguous range of rows, so that the order of summation depends on their number only.
template <class Work> inline void over_rows(int64_t rows, int64_t threads, const Work& work) {
    in_parallel(threads, [&](Member& member) {
        member.each(threads, [&](int64_t part) { work(part, rows * part / threads, rows * (part + 1) / threads); });
    });
}

// work(i) for 0 .. count - 1, in any order.
template <class Work> inline void over_each(int64_t count, int64_t threads, const Work& work) {
    in_parallel(threads, [&](Member& member) { member.each(count, work); });
}

// Partial sums of each thread, added in the order of threads.
inline void add_parts(const std::vector<float>& parts, int64_t threads, int64_t width, float* total) {
    for (int64_t i = 0; i < width; i++) {
        float sum = 0;
        for (int64_t thread = 0; thread < threads; thread++) sum += parts[thread * width + i];
        total[i] = sum;
    }
}

template <class T> struct NormRow {
    const T* x;
    int64_t width;
    bool layer;
    float mean, inverse;

    NormRow(const T* x, int64_t width, bool layer, float epsilon) : x(x), width(width), layer(layer), mean(0) {
        floats total{}, squares{};
        if (layer) {
            for (int64_t i = 0; i < width; i += LANES) total += load(x + i);
            mean = sum(total) / width;
        }
        for (int64_t i = 0; i < width; i += LANES) {
            floats centred = load(x + i) - mean;
            squares = fused(centred, centred, squares);
        }
        inverse = 1.0f / std::sqrt(sum(squares) / width + epsilon);
    }
    floats normalized(int64_t i) const { return (load(x + i) - mean) * inverse; }
};

// total = x + delta (skipped without delta); out = norm(total) * weight + bias. A norm without bias is an RMSNorm.
template <class T>
void norm_forward(const T* x, const T* delta, T* total, T* out, const float* weight, const float* bias, int64_t rows,
                  int64_t width, float epsilon, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const T* in = x + row * width;
            if (delta) {
                for (int64_t i = row * width; i < (row + 1) * width; i += LANES)
                    store(total + i, load(x + i) + load(delta + i));
                in = total + row * width;
            }
            NormRow<T> norm(in, width, bias, epsilon);
            for (int64_t i = 0; i < width; i += LANES) {
                floats scaled = norm.normalized(i) * load(weight + i);
                store(out + row * width + i, bias ? scaled + load(bias + i) : scaled);
            }
        }
    });
}

// x_gradient = gradient through the norm + total_gradient (may be null); also the gradients of weight and bias.
template <class T>
void norm_backward(const T* gradient, const T* total_gradient, const T* x, T* x_gradient, const float* weight, bool layer,
                   float* weight_gradient, float* bias_gradient, int64_t rows, int64_t width, float epsilon,
                   int64_t threads) {
    std::vector<float> weight_parts(threads * width), bias_parts(threads * width);
    over_rows(rows, threads, [&](int64_t thread, int64_t first, int64_t last) {
        float *weight_part = &weight_parts[thread * width], *bias_part = &bias_parts[thread * width];
        for (int64_t row = first; row < last; row++) {
            NormRow<T> norm(x + row * width, width, layer, epsilon);
            const T* outer = gradient + row * width;
            floats along{}, plain{};
            for (int64_t i = 0; i < width; i += LANES) {
                floats normalized = norm.normalized(i), given = load(outer + i), inner = given * load(weight + i);
                along = fused(inner, normalized, along);
                plain += inner;
                store(weight_part + i, fused(given, normalized, load(weight_part + i)));
                if (layer) store(bias_part + i, load(bias_part + i) + given);
            }
            float slope = sum(along) / width, shift = layer ? sum(plain) / width : 0.0f;
            for (int64_t i = 0; i < width; i += LANES) {
                floats inner = load(outer + i) * load(weight + i) - shift - norm.normalized(i) * slope;
                inner *= norm.inverse;
                if (total_gradient) inner += load(total_gradient + row * width + i);
                store(x_gradient + row * width + i, inner);
            }
        }
    });
    add_parts(weight_parts, threads, width, weight_gradient);
    if (layer) add_parts(bias_parts, threads, width, bias_gradient);
}
