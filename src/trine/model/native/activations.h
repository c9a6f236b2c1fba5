// Activations of the MLP, and column sums for the gradients of biases.
#pragma once
#include "norms.h"

template <class T> void gelu_forward(const T* x, T* out, int64_t count, int64_t threads) {
    over_rows(count / LANES, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first * LANES; i < last * LANES; i += LANES) store(out + i, gelu(load(x + i)));
    });
}

// With s = 1 / (1 + e^-2u): gelu = x s, its derivative s + 2 x s (1 - s) u'. Beyond 30, s is 0 or 1 to rounding.
inline floats gelu_slope(floats x) {
    x = at_most(30.0f, -at_most(30.0f, -x));
    floats square = x * x;
    floats u = 0.7978845608f * x * (1.0f + 0.044715f * square);
    floats s = reciprocal(1.0f + exponential(-2.0f * u));
    floats rise = 0.7978845608f + 0.1070322243f * square;
    return s + 2.0f * x * s * (1.0f - s) * rise;
}

template <class T> void gelu_backward(const T* gradient, const T* x, T* x_gradient, int64_t count, int64_t threads) {
    over_rows(count / LANES, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first * LANES; i < last * LANES; i += LANES)
            store(x_gradient + i, load(gradient + i) * gelu_slope(load(x + i)));
    });
}

// x [rows, 2 width] is gate and up concatenated; out [rows, width] = silu(gate) * up.
template <class T> void swiglu_forward(const T* x, T* out, int64_t rows, int64_t width, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const T *gate = x + 2 * row * width, *up = gate + width;
            for (int64_t i = 0; i < width; i += LANES)
                store(out + row * width + i, silu(load(gate + i)) * load(up + i));
        }
    });
}

template <class T>
void swiglu_backward(const T* gradient, const T* x, T* x_gradient, int64_t rows, int64_t width, int64_t threads) {
    over_rows(rows, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            const T *outer = gradient + row * width, *gate = x + 2 * row * width, *up = gate + width;
            T *gate_gradient = x_gradient + 2 * row * width, *up_gradient = gate_gradient + width;
            for (int64_t i = 0; i < width; i += LANES) {
                floats g = load(gate + i), given = load(outer + i), s = reciprocal(1.0f + exponential(-g));
                store(gate_gradient + i, given * load(up + i) * s * (1.0f + g * (1.0f - s)));
                store(up_gradient + i, given * g * s);
            }
        }
    });
}

// total [width] = sum over rows of x [rows, width].
template <class T> void sum_rows(const T* x, float* total, int64_t rows, int64_t width, int64_t threads) {
    std::vector<float> parts(threads * width);
    over_rows(rows, threads, [&](int64_t thread, int64_t first, int64_t last) {
        float* part = &parts[thread * width];
        for (int64_t row = first; row < last; row++)
            for (int64_t i = 0; i < width; i += LANES)
                store(part + i, load(part + i) + load(x + row * width + i));
    });
    add_parts(parts, threads, width, total);
}
