// QK-norm and rotary positions of the heads in [rows][heads + passed][d]; the last `passed` heads are unchanged.
#pragma once
#include "norms.h"

template <class T> struct RotaryHeads {
    int64_t rows, normed, scaled, passed, head_dim;  // `scaled` of the `normed` heads take the first weight row: queries
    const float* weight;                            // [2][d]: of queries, of keys; null without QK-norm
    const T *cosines, *sines;                       // [table_rows][d]; null without rotation
    int64_t table_rows;
    float epsilon;

    const float* weight_of(int64_t head) const { return weight + (head < scaled ? 0 : head_dim); }
    int64_t other(int64_t i) const { return i < head_dim / 2 ? i + head_dim / 2 : i - head_dim / 2; }
};

template <class T> void rotary_forward(const RotaryHeads<T>& t, const T* x, T* out, int64_t threads) {
    int64_t d = t.head_dim, width = (t.normed + t.passed) * d;
    over_rows(t.rows, threads, [&](int64_t, int64_t first, int64_t last) {
        std::vector<float> normed(d);
        for (int64_t row = first; row < last; row++) {
            const T *cosine = t.cosines + row % t.table_rows * d, *sine = t.sines + row % t.table_rows * d;
            for (int64_t head = 0; head < t.normed; head++) {
                const T* in = x + row * width + head * d;
                T* to = out + row * width + head * d;
                NormRow<T> norm(in, d, false, t.epsilon);
                for (int64_t i = 0; i < d; i += LANES)
                    store(&normed[i], t.weight ? norm.normalized(i) * load(t.weight_of(head) + i) : load(in + i));
                for (int64_t i = 0; i < d; i += LANES) {
                    floats kept = load(&normed[i]);
                    if (t.cosines) kept = fused(kept, load(cosine + i), load(&normed[t.other(i)]) * load(sine + i));
                    store(to + i, kept);
                }
            }
            std::memcpy(out + row * width + t.normed * d, x + row * width + t.normed * d, t.passed * d * sizeof(T));
        }
    });
}

// Backward pass of rotation and norm, in place on gradient; also the gradient of the norm weights [2][d].
template <class T> void rotary_backward(const RotaryHeads<T>& t, const T* x, T* gradient, float* weight_gradient, int64_t threads) {
    int64_t d = t.head_dim, width = (t.normed + t.passed) * d;
    std::vector<float> parts(threads * 2 * d);
    over_rows(t.rows, threads, [&](int64_t thread, int64_t first, int64_t last) {
        std::vector<float> straight(d);
        for (int64_t row = first; row < last; row++) {
            const T *cosine = t.cosines + row % t.table_rows * d, *sine = t.sines + row % t.table_rows * d;
            for (int64_t head = 0; head < t.normed; head++) {
                const T* in = x + row * width + head * d;
                T* outer = gradient + row * width + head * d;
                for (int64_t i = 0; i < d; i += LANES) {
                    floats kept = load(outer + i);
                    if (t.cosines)
                        kept = fused(kept, load(cosine + i), load(outer + t.other(i)) * load(sine + t.other(i)));
                    store(&straight[i], kept);
                }
                if (!t.weight) {
                    for (int64_t i = 0; i < d; i += LANES) store(outer + i, load(&straight[i]));
                    continue;
                }
                NormRow<T> norm(in, d, false, t.epsilon);
                float* part = &parts[thread * 2 * d + (head < t.scaled ? 0 : d)];
                floats along{};
                for (int64_t i = 0; i < d; i += LANES) {
                    floats normalized = norm.normalized(i), given = load(&straight[i]);
                    along = fused(given * load(t.weight_of(head) + i), normalized, along);
                    store(part + i, fused(given, normalized, load(part + i)));
                }
                float slope = sum(along) / d;
                for (int64_t i = 0; i < d; i += LANES) {
                    floats inner = load(&straight[i]) * load(t.weight_of(head) + i) - norm.normalized(i) * slope;
                    store(outer + i, inner * norm.inverse);
                }
            }
        }
    });
    add_parts(parts, threads, 2 * d, weight_gradient);
}
