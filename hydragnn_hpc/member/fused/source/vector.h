/* Vectors: the lanes of a `vec` are different samples of one member's batch or, in varying/, different features.
 *
 * Written with the vector extensions of GCC and Clang, so any processor works; where they cannot express an instruction
 * that matters (minimum, masked add, square root), x86 intrinsics are used. FUSED_DOUBLE selects float64, which exists
 * for tests of the same source to tight tolerances.
 */
#ifndef FUSED_VECTOR_H
#define FUSED_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#if defined(__SSE__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#ifdef FUSED_DOUBLE
typedef double real;
typedef int64_t lane_int;
#define LANES (VECTOR_BYTES / 8)
#define SUFFIX pd
#define SQRT sqrt
#define LOG log
#else
typedef float real;
typedef int32_t lane_int;
#define LANES (VECTOR_BYTES / 4)
#define SUFFIX ps
#define SQRT sqrtf
#define LOG logf
#endif

typedef real vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef real loose_vec __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(sizeof(real))));
typedef lane_int lane_mask __attribute__((vector_size(VECTOR_BYTES)));

#define JOIN3(a, b, c) a##b##c
#define NAME3(a, b, c) JOIN3(a, b, c)
#define OP512(name) NAME3(_mm512_, name, SUFFIX)
#define OP256(name) NAME3(_mm256_, name, SUFFIX)

/* Number of vectors that hold so many numbers. */
INLINE long vectors_for(long numbers) { return (numbers + LANES - 1) / LANES; }

INLINE vec load_loose(const real *from) { return *(const loose_vec *)from; }
INLINE void store_loose(real *to, vec value) { *(loose_vec *)to = value; }

#if defined(__AVX512F__)

#define COMPARE(a, b, how) NAME3(_mm512_cmp_, SUFFIX, _mask)(a, b, how)

INLINE vec minimum(vec a, vec b) { return (vec)OP512(min_)(a, b); }
INLINE vec maximum(vec a, vec b) { return (vec)OP512(max_)(a, b); }
INLINE vec square_root(vec a) { return (vec)OP512(sqrt_)(a); }
/* a > 0 ? b : 0 */
INLINE vec where_positive(vec a, vec b) { return (vec)OP512(maskz_mov_)(COMPARE(a, (vec){}, _CMP_GT_OQ), b); }
/* b where a is a number, else 0 */
INLINE vec where_known(vec a, vec b) { return (vec)OP512(maskz_mov_)(COMPARE(a, a, _CMP_ORD_Q), b); }
/* sum + (a == b ? c : 0), and c set to zero in the lanes that matched: "the first match takes it all". */
INLINE vec take_first(vec sum, vec a, vec b, vec *c) {
    unsigned mask = COMPARE(a, b, _CMP_EQ_OQ);
    vec result = (vec)OP512(mask_add_)(sum, mask, sum, *c);
    *c = (vec)OP512(mask_mov_)(*c, mask, (vec){});
    return result;
}

#else

INLINE vec choose(lane_mask mask, vec a, vec b) {
    return (vec)((mask & (lane_mask)a) | (~mask & (lane_mask)b));
}
#if defined(__AVX__)
INLINE vec minimum(vec a, vec b) { return (vec)OP256(min_)(a, b); }
INLINE vec maximum(vec a, vec b) { return (vec)OP256(max_)(a, b); }
INLINE vec square_root(vec a) { return (vec)OP256(sqrt_)(a); }
#else
INLINE vec minimum(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec maximum(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec square_root(vec a) {
    vec result;
    for (int l = 0; l < LANES; l++) result[l] = SQRT(a[l]);
    return result;
}
#endif
INLINE vec where_positive(vec a, vec b) { return (vec)((a > (vec){}) & (lane_mask)b); }
INLINE vec where_known(vec a, vec b) { return (vec)((a == a) & (lane_mask)b); }
INLINE vec take_first(vec sum, vec a, vec b, vec *c) {
    lane_mask mask = a == b;
    vec taken = (vec)(mask & (lane_mask)*c);
    *c = (vec)(~mask & (lane_mask)*c);
    return sum + taken;
}

#endif

/* max(0, a). Where one operand is NaN, every variant above returns the second, so that NaN stays visible. */
INLINE vec rectify(vec a) { return maximum((vec){}, a); }

/* sqrt(a) and 1 / a for positive a, to the last bit or two. The processor's own instructions take 16 to 24 cycles per
 * vector, its estimates with one Newton step four. */
#if defined(__AVX512F__) && !defined(FUSED_DOUBLE)
INLINE vec quick_root(vec a) {
    vec estimate = (vec)_mm512_rsqrt14_ps((__m512)a), root = a * estimate;
    return root + (real)0.5 * root * (1 - root * estimate);
}
INLINE vec quick_inverse(vec a) {
    vec estimate = (vec)_mm512_rcp14_ps((__m512)a);
    return estimate + estimate * (1 - a * estimate);
}
#else
INLINE vec quick_root(vec a) { return square_root(a); }
INLINE vec quick_inverse(vec a) { return 1 / a; }
#endif

/* For losses: a few thousand values in a batch. */
static vec logarithm(vec a) {
    vec result;
    for (int l = 0; l < LANES; l++) result[l] = LOG(a[l]);
    return result;
}

/* Treats subnormal numbers as zero from here on; returns what restore_subnormals() takes. The moments of weights that
 * no longer change decay into subnormal numbers and stay there, and every instruction on one takes a hundred cycles. */
static unsigned flush_subnormals(void) {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, and denormals are zero */
    return before;
#else
    return 0;
#endif
}
static void restore_subnormals(unsigned before) {
#if defined(__SSE__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

/* Sum over the lanes, always in the same order. */
INLINE real sum_lanes(vec a) {
    real part[LANES];
    memcpy(part, &a, sizeof part);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++) part[l] += part[l + width];
    return part[0];
}

INLINE vec shuffle_two(vec a, vec b, lane_mask from) {
#if defined(__GNUC__) && !defined(__clang__)
    return __builtin_shuffle(a, b, from);
#else
    vec result;
    for (int l = 0; l < LANES; l++) result[l] = from[l] < LANES ? a[from[l]] : b[from[l] - LANES];
    return result;
#endif
}

/* Shuffles of two vectors, with which lanes `s` apart are added in both at once. */
#define STRAIGHT(l, s) ((l) & (s) ? LANES + (l) : (l))
#define CROSSED(l, s) ((l) & (s) ? LANES + ((l) ^ (s)) : ((l) ^ (s)))
#define LANES2(how, l, s) how(l, s), how((l) + 1, s)
#define LANES4(how, l, s) LANES2(how, l, s), LANES2(how, (l) + 2, s)
#define LANES8(how, l, s) LANES4(how, l, s), LANES4(how, (l) + 4, s)
#define LANES16(how, l, s) LANES8(how, l, s), LANES8(how, (l) + 8, s)
#if LANES == 16
#define ALL_LANES LANES16
#elif LANES == 8
#define ALL_LANES LANES8
#elif LANES == 4
#define ALL_LANES LANES4
#else
#define ALL_LANES LANES2
#endif

INLINE vec add_apart(vec a, vec b, lane_mask straight, lane_mask crossed) {
    return shuffle_two(a, b, straight) + shuffle_two(a, b, crossed);
}
#define HALVE(s)                                                                                 \
    UNROLL for (int k = 0; k < LANES / (2 * (s)); k++)                                           \
        a[k] = add_apart(a[2 * k], a[2 * k + 1], (lane_mask){ALL_LANES(STRAIGHT, 0, s)},         \
                         (lane_mask){ALL_LANES(CROSSED, 0, s)})

/* Lane l of the result is the sum over the lanes of a[l]: a transposition folded into a tree of
 * additions, about three instructions per vector where summing each by itself takes eight. */
INLINE vec sum_each(vec a[LANES]) {
    HALVE(1);
#if LANES > 2
    HALVE(2);
#endif
#if LANES > 4
    HALVE(4);
#endif
#if LANES > 8
    HALVE(8);
#endif
    return a[0];
}

#endif
