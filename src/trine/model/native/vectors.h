// As many floats at a time as a register of the processor holds, in the compiler's own vector types, so that the same source
// serves AVX-512 (16), AVX2 (8), NEON and what every x86 processor has (4). Sums over lanes are made in an order of their own
// on each. Intrinsics stand where compilers find no good instruction by themselves.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t words __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t halves __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef int8_t bytes __attribute__((vector_size(VECTOR_BYTES / 4)));
constexpr int LANES = VECTOR_BYTES / 4;

// What the kernels were built for, as people name it.
#if defined(__AVX512BF16__)
constexpr const char* INSTRUCTIONS = "AVX512-BF16";
#elif VECTOR_BYTES == 64
constexpr const char* INSTRUCTIONS = "AVX-512";
#elif VECTOR_BYTES == 32
constexpr const char* INSTRUCTIONS = "AVX2";
#elif defined(__aarch64__)
constexpr const char* INSTRUCTIONS = "NEON";
#else
constexpr const char* INSTRUCTIONS = "no wide vectors";
#endif

struct bf16 {
    uint16_t bits;
};

inline floats spread(float x) { return x - floats{}; }

// 0, 1, 2, ...
inline ints lane_numbers() {
#if VECTOR_BYTES == 64
    return ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VECTOR_BYTES == 32
    return ints{0, 1, 2, 3, 4, 5, 6, 7};
#else
    return ints{0, 1, 2, 3};
#endif
}

template <class T> inline T load_as(const void* source) {
    T value;
    std::memcpy(&value, source, sizeof(T));
    return value;
}

inline floats load(const float* source) { return load_as<floats>(source); }
inline floats load(const int8_t* source) {
#if defined(__AVX512F__)
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_as<__m128i>(source)));
#elif VECTOR_BYTES == 32
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)source)));
#elif defined(__aarch64__)
    int8x8_t four = vreinterpret_s8_u32(vdup_n_u32(load_as<uint32_t>(source)));
    return (floats)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))));
#else
    return __builtin_convertvector(load_as<bytes>(source), floats);
#endif
}
inline floats load(const bf16* source) {
    return (floats)(__builtin_convertvector(load_as<halves>(source), words) << 16);
}

inline void store(float* target, floats value) { std::memcpy(target, &value, sizeof(value)); }

// Round to nearest, ties to even.
inline void store(bf16* target, floats value) {
#if defined(__AVX512BF16__)
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(target, &rounded, sizeof(rounded));
#else
    words bits = (words)value;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#if VECTOR_BYTES == 32
    __m256i wide = (__m256i)bits;
    __m128i rounded = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
#else
    halves rounded = __builtin_convertvector(bits, halves);
#endif
    std::memcpy(target, &rounded, sizeof(rounded));
#endif
}

// The larger of each pair; b where one is NaN.
inline floats maximum(floats a, floats b) {
#if VECTOR_BYTES == 32
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

#if defined(__clang__)
#define SHUFFLED(value, ...) __builtin_shufflevector(value, value, __VA_ARGS__)
#else
#define SHUFFLED(value, ...) __builtin_shuffle(value, ints{__VA_ARGS__})
#endif

// Reduces the lanes by halves.
template <class Join> inline float fold(floats value, Join join) {
#if VECTOR_BYTES == 64
    value = join(value, SHUFFLED(value, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    value = join(value, SHUFFLED(value, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    value = join(value, SHUFFLED(value, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    value = join(value, SHUFFLED(value, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif VECTOR_BYTES == 32
    value = join(value, SHUFFLED(value, 4, 5, 6, 7, 0, 1, 2, 3));
    value = join(value, SHUFFLED(value, 2, 3, 0, 1, 6, 7, 4, 5));
    value = join(value, SHUFFLED(value, 1, 0, 3, 2, 5, 4, 7, 6));
#else
    value = join(value, SHUFFLED(value, 2, 3, 0, 1));
    value = join(value, SHUFFLED(value, 1, 0, 3, 2));
#endif
    return value[0];
}

inline float sum(floats value) {
    return fold(value, [](floats a, floats b) { return a + b; });
}

inline float maximum(floats value) {
    return fold(value, [](floats a, floats b) { return maximum(a, b); });
}

// a b + c, with the same rounding everywhere. Otherwise the compiler fuses some copies of a line and not others, and the
// result for a row would depend on the number of rows.
inline floats fused(floats a, floats b, floats c) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VECTOR_BYTES == 32
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// The product of bf16 pairs: a word holds two values, of which the first is in the low half.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define HAS_PAIR_PRODUCT 1
#endif

// sum + a.low b.low + a.high b.high
inline floats add_pairs(floats sum, words a, words b) {
#if defined(__AVX512BF16__)
    return (floats)_mm512_dpbf16_ps((__m512)sum, load_as<__m512bh>(&a), load_as<__m512bh>(&b));
#elif defined(HAS_PAIR_PRODUCT)
    return (floats)vbfdotq_f32((float32x4_t)sum, load_as<bfloat16x8_t>(&a), load_as<bfloat16x8_t>(&b));
#else
    sum = fused((floats)(a << 16), (floats)(b << 16), sum);
    return fused((floats)(a & 0xffff0000u), (floats)(b & 0xffff0000u), sum);
#endif
}

// Prefetch memory that is read soon: pages are scattered, so the hardware prefetcher cannot predict the next.
inline void prefetch(const void* from, int64_t size) {
    for (int64_t at = 0; at < size; at += 64) __builtin_prefetch((const char*)from + at);
}

// min(x, bound); NaN stays NaN.
inline floats at_most(float bound, floats x) {
#if defined(__AVX512F__)
    return (floats)_mm512_min_ps((__m512)spread(bound), (__m512)x);
#elif VECTOR_BYTES == 32
    return (floats)_mm256_min_ps((__m256)spread(bound), (__m256)x);
#else
    return x > bound ? spread(bound) : x;
#endif
}

// 1 / x to about 1 unit in the last place, for 2^-126 < |x| < 2^126.
inline floats reciprocal(floats x) {
#if defined(__AVX512F__)
    floats near = (floats)_mm512_rcp14_ps((__m512)x);
    return fused(near, fused(-x, near, spread(1.0f)), near);
#else
    return 1.0f / x;
#endif
}

// e^x to about 2 units in the last place: 2^n e^r with |r| <= ln(2) / 2, e^r by its series; 0 below -87, 6e37
// above 87. NaN stays NaN. Adding 3 * 2^22 rounds to a whole number, which then stands in the low bits.
inline floats exponential(floats x) {
    const float round = 12582912.0f;
    floats clamped = at_most(87.0f, x);
    floats shifted = fused(clamped, spread(1.44269504f), spread(round));
    floats whole = shifted - round;
    floats r = fused(whole, spread(-1.42860677e-6f), fused(whole, spread(-0.693145752f), clamped));
    floats series = spread(1.0f / 5040);
    for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        series = fused(series, r, spread(coefficient));
    floats result = (floats)((ints)series + ((ints)shifted << 23));
    floats kept = x == x ? result : x;
    return x < -87.0f ? floats{} : kept;
}

// x / (1 + e^-x)
inline floats silu(floats x) { return x * reciprocal(1.0f + exponential(-x)); }

// The tanh form of GPT-2: x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
inline floats gelu(floats x) {
    floats u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x * reciprocal(1.0f + exponential(-2.0f * u));
}
