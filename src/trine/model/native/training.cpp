// Kernels of training on a CPU, each in one pass over memory; called from training_kernels.py.
//
// Values are fp32 or bf16 (the suffix of a name), statistics and sums fp32. The same input on the same number of threads
// gives the same bits. Widths are multiples of LANES, except that of a vocabulary, which is arbitrary.
#include "activations.h"
#include "causal_attention.h"
#include "cross_entropy.h"
#include "heads.h"
#include "linear.h"
#include "norms.h"
#include "token_log_probs.h"

#define FOR_TYPE(T, NAME)                                                                                                 \
    void trine_norm_forward_##NAME(const T* x, const T* delta, T* total, T* out, const float* weight, const float* bias,  \
                                   int64_t rows, int64_t width, float epsilon, int64_t threads) {                         \
        norm_forward(x, delta, total, out, weight, bias, rows, width, epsilon, threads);                                  \
    }                                                                                                                     \
    void trine_norm_backward_##NAME(const T* gradient, const T* total_gradient, const T* x, T* x_gradient,                \
                                    const float* weight, float* weight_gradient, float* bias_gradient, int64_t rows,      \
                                    int64_t width, float epsilon, int64_t threads) {                                      \
        norm_backward(gradient, total_gradient, x, x_gradient, weight, bias_gradient, weight_gradient, bias_gradient,     \
                      rows, width, epsilon, threads);                                                                     \
    }                                                                                                                     \
    void trine_gelu_forward_##NAME(const T* x, T* out, int64_t count, int64_t threads) {                                  \
        gelu_forward(x, out, count, threads);                                                                             \
    }                                                                                                                     \
    void trine_gelu_backward_##NAME(const T* gradient, const T* x, T* x_gradient, int64_t count, int64_t threads) {       \
        gelu_backward(gradient, x, x_gradient, count, threads);                                                           \
    }                                                                                                                     \
    void trine_swiglu_forward_##NAME(const T* x, T* out, int64_t rows, int64_t width, int64_t threads) {                  \
        swiglu_forward(x, out, rows, width, threads);                                                                     \
    }                                                                                                                     \
    void trine_swiglu_backward_##NAME(const T* gradient, const T* x, T* x_gradient, int64_t rows, int64_t width,          \
                                      int64_t threads) {                                                                  \
        swiglu_backward(gradient, x, x_gradient, rows, width, threads);                                                   \
    }                                                                                                                     \
    void trine_cross_entropy_##NAME(T* logits, const int64_t* targets, const float* scales, double* losses, int64_t rows, \
                                    int64_t width, int64_t threads) {                                                     \
        cross_entropy(logits, targets, scales, losses, rows, width, threads);                                             \
    }                                                                                                                     \
    void trine_token_log_probs_forward_##NAME(const T* logits, const int64_t* targets, float* log_probs, float* entropies,  \
                                              float* largest, float* totals, int64_t rows, int64_t width, float scale,    \
                                              int64_t threads) {                                                          \
        token_log_probs_forward(logits, targets, log_probs, entropies, largest, totals, rows, width, scale, threads);     \
    }                                                                                                                     \
    void trine_token_log_probs_backward_##NAME(T* logits, const int64_t* targets, const float* largest,                   \
                                               const float* totals, const float* entropies, const float* log_prob_gradients,                   \
                                               const float* entropy_gradients, int64_t rows, int64_t width, float scale,  \
                                               int64_t threads) {                                                         \
        token_log_probs_backward(logits, targets, largest, totals, entropies, log_prob_gradients, entropy_gradients,      \
                                 rows, width, scale, threads);                                                            \
    }                                                                                                                     \
    void trine_rotary_forward_##NAME(const T* x, T* out, const float* weight, const T* cosines, const T* sines,             \
                                   const int64_t* sizes, float epsilon, int64_t threads) {                                \
        rotary_forward<T>({sizes[0], sizes[1] + sizes[2], sizes[1], sizes[3], sizes[4], weight, cosines, sines, sizes[5],   \
                         epsilon},                                                                                        \
                        x, out, threads);                                                                                 \
    }                                                                                                                     \
    void trine_rotary_backward_##NAME(const T* x, T* gradient, const float* weight, float* weight_gradient,                 \
                                    const T* cosines, const T* sines, const int64_t* sizes, float epsilon,                \
                                    int64_t threads) {                                                                    \
        rotary_backward<T>({sizes[0], sizes[1] + sizes[2], sizes[1], sizes[3], sizes[4], weight, cosines, sines, sizes[5],  \
                          epsilon},                                                                                       \
                         x, gradient, weight_gradient, threads);                                                          \
    }                                                                                                                     \
    void trine_linear_forward_##NAME(const T* x, const float* weight, const float* bias, T* out, int64_t rows,             \
                                     int64_t inputs, int64_t outputs, int64_t threads) {                                   \
        linear_forward<T>({rows, inputs, outputs}, x, weight, bias, out, threads);                                         \
    }                                                                                                                     \
    /* A gradient that is not needed is null. */                                                                          \
    void trine_linear_backward_##NAME(const T* gradient, const T* x, const float* weight, T* x_gradient,                  \
                                      float* weight_gradient, float* bias_gradient, int64_t rows, int64_t inputs,         \
                                      int64_t outputs, int64_t threads) {                                                 \
        LinearSizes size{rows, inputs, outputs};                                                                          \
        if (x_gradient) linear_input_backward<T>(size, gradient, weight, x_gradient, threads);                            \
        if (weight_gradient) linear_weight_backward<T>(size, gradient, x, weight_gradient, threads);                      \
        if (bias_gradient) sum_rows(gradient, bias_gradient, rows, outputs, threads);                                     \
    }                                                                                                                     \
    /* sizes: B, T, H, K, d */                                                                                            \
    void trine_attention_forward_##NAME(const T* qkv, const int64_t* starts, const int64_t* segments, T* out,             \
                                        float* log_sums, const int64_t* sizes, int64_t threads) {                         \
        Heads<T> heads{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], qkv, starts, segments};                          \
        attention_forward<T>(heads, out, log_sums, threads);                                                              \
    }                                                                                                                     \
    void trine_attention_backward_##NAME(const T* qkv, const int64_t* starts, const int64_t* segments, const T* out,      \
                                         const T* outer, const float* log_sums, T* gradient, const int64_t* sizes,        \
                                         int64_t threads) {                                                               \
        Heads<T> heads{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], qkv, starts, segments};                          \
        attention_backward<T>({heads, out, outer, log_sums, gradient}, threads);                                          \
    }

extern "C" {
FOR_TYPE(float, float32)
FOR_TYPE(bf16, bfloat16)

const char* trine_instructions() { return INSTRUCTIONS; }

// Whether the products of linear.h in bf16 are the fastest here: they need the dot product; AMX (in PyTorch) is faster still.
int64_t trine_has_fast_products() {
#if defined(HAS_PAIR_PRODUCT) && !defined(__AMX_BF16__)
    return 1;
#else
    return 0;
#endif
}
}
