/* Rows of features: one row per atom or sample, lanes are features. Products with small matrices, and transpositions.
 *
 * Rows are padded to whole vectors. Padding never affects a feature: vectors act lane by lane, and depths count only
 * features. So padding may hold anything, and rows may be read and written past their ends where whatever follows is
 * written later, or is padding too.
 */
#ifndef FUSED_VARYING_ROWS_H
#define FUSED_VARYING_ROWS_H

#include "../product.h"

#if VECTOR_BYTES == 64 /* 32 vector registers */
#define ROWS_AT_ONCE 8
#else /* 16 */
#define ROWS_AT_ONCE 4
#endif
#define VECTORS_AT_ONCE 3
_Static_assert(VECTORS_AT_ONCE == 3, "switches on the number of vectors end at 3");

typedef struct { /* row t is at data + (order ? order[t] : t) * stride */
    real *data;
    long stride;
    const int32_t *order;
} Rows;

INLINE Rows rows(real *data, long stride, const int32_t *order) { return (Rows){data, stride, order}; }
INLINE real *row_of(Rows of, long t) { return of.data + (of.order ? of.order[t] : t) * of.stride; }
INLINE long rounded(long entries, long multiple) { return (entries + multiple - 1) / multiple * multiple; }
INLINE long padded(long entries) { return rounded(entries, LANES); }

/* out[t][c] = sum_k in[t][k] matrix[k][c] (or added to it), for T rows and V vectors of columns; both literals. */
INLINE void rows_tile(int T, int V, const real *matrix, long stride, long depth, int add, real *const *in,
                      real *const *out, long c) {
    vec acc[ROWS_AT_ONCE][VECTORS_AT_ONCE];
    UNROLL for (int t = 0; t < T; t++) UNROLL for (int v = 0; v < V; v++)
        acc[t][v] = add ? load_loose(out[t] + c + v * LANES) : (vec){};
    for (long k = 0; k < depth; k++) {
        vec weight[VECTORS_AT_ONCE];
        UNROLL for (int v = 0; v < V; v++) weight[v] = load_loose(matrix + k * stride + c + v * LANES);
        UNROLL for (int t = 0; t < T; t++) {
            real x = in[t][k];
            UNROLL for (int v = 0; v < V; v++) acc[t][v] += x * weight[v];
        }
    }
    UNROLL for (int t = 0; t < T; t++) UNROLL for (int v = 0; v < V; v++)
        store_loose(out[t] + c + v * LANES, acc[t][v]);
}

/* A single last row is computed twice: compilers may round a single sum differently from several side by side, and a
 * row's bits would then depend on its position. */
INLINE void rows_strip(int T, const real *matrix, long stride, long depth, long width, int add, Rows in, Rows out,
                       long t, long count) {
    real *from[ROWS_AT_ONCE], *to[ROWS_AT_ONCE];
    UNROLL for (int k = 0; k < T; k++) {
        from[k] = row_of(in, t + k < count ? t + k : t);
        to[k] = row_of(out, t + k < count ? t + k : t);
    }
    for (long c = 0; c < width; c += VECTORS_AT_ONCE * LANES) {
#define TILE(V) rows_tile(T, V, matrix, stride, depth, add, from, to, c)
        switch ((width - c + LANES - 1) / LANES) {
        case 1: TILE(1); break;
        case 2: TILE(2); break;
        default: TILE(3); break;
        }
#undef TILE
    }
}

/* Rows [0, count) of `in` times matrix [depth][width], whose rows are `stride` apart. */
static void rows_multiply(const real *matrix, long stride, long depth, long width, int add, Rows in, Rows out,
                          long count) {
    long t = 0;
    for (; t + ROWS_AT_ONCE <= count; t += ROWS_AT_ONCE)
        rows_strip(ROWS_AT_ONCE, matrix, stride, depth, width, add, in, out, t, count);
#if ROWS_AT_ONCE > 4
    for (; t + 4 <= count; t += 4) rows_strip(4, matrix, stride, depth, width, add, in, out, t, count);
#endif
    for (; t < count; t += 2) rows_strip(2, matrix, stride, depth, width, add, in, out, t, count);
}

INLINE void rows_outer_tile(int V, Rows left, long k, Rows right, long c, long count, real *d, long stride) {
    vec acc[ROWS_AT_ONCE][VECTORS_AT_ONCE];
    UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) UNROLL for (int v = 0; v < V; v++)
        acc[r][v] = load_loose(d + (k + r) * stride + c + v * LANES);
    for (long t = 0; t < count; t++) {
        const real *a = row_of(left, t) + k, *g = row_of(right, t) + c;
        vec y[VECTORS_AT_ONCE];
        UNROLL for (int v = 0; v < V; v++) y[v] = load_loose(g + v * LANES);
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) UNROLL for (int v = 0; v < V; v++) acc[r][v] += a[r] * y[v];
    }
    UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) UNROLL for (int v = 0; v < V; v++)
        store_loose(d + (k + r) * stride + c + v * LANES, acc[r][v]);
}

/* d[k][c] += sum_t left[t][k] right[t][c]. d has padded(width) columns, and ROWS_AT_ONCE - 1 rows of room. */
static void rows_outer(Rows left, long depth, Rows right, long width, long count, real *d) {
    long stride = padded(width);
    for (long c = 0; c < width; c += VECTORS_AT_ONCE * LANES)
        for (long k = 0; k < depth; k += ROWS_AT_ONCE) {
#define TILE(V) rows_outer_tile(V, left, k, right, c, count, d, stride)
            switch ((stride - c) / LANES) {
            case 1: TILE(1); break;
            case 2: TILE(2); break;
            default: TILE(3); break;
            }
#undef TILE
        }
}

#define STAYS(l, s) ((l) & (s) ? LANES + ((l) ^ (s)) : (l))
#define MOVES(l, s) ((l) & (s) ? LANES + (l) : ((l) ^ (s)))
#define EXCHANGE(s)                                                                                               \
    UNROLL for (int k = 0; k < LANES; k++) if (!(k & (s))) {                                                      \
        vec low = a[k], high = a[k + (s)];                                                                        \
        a[k] = shuffle_two(low, high, (lane_mask){ALL_LANES(STAYS, 0, s)});                                       \
        a[k + (s)] = shuffle_two(low, high, (lane_mask){ALL_LANES(MOVES, 0, s)});                                 \
    }

/* Lane c of a[r] becomes lane r of a[c]. */
INLINE void transpose_lanes(vec a[LANES]) {
    EXCHANGE(1)
#if LANES > 2
    EXCHANGE(2)
#endif
#if LANES > 4
    EXCHANGE(4)
#endif
#if LANES > 8
    EXCHANGE(8)
#endif
}

/* to[c][r] = from[r][c], for `width` columns of `from`, which is read up to whole vectors. */
static void transpose_rows(const real *from, long from_stride, long row_count, long width, real *to, long to_stride) {
    for (long r = 0; r < row_count; r += LANES)
        for (long c = 0; c < width; c += LANES) {
            long left = row_count - r < LANES ? row_count - r : LANES;
            vec a[LANES];
            UNROLL for (int k = 0; k < LANES; k++)
                a[k] = k < left ? load_loose(from + (r + k) * from_stride + c) : (vec){};
            transpose_lanes(a);
            for (int k = 0; k < LANES && c + k < width; k++) {
                real *place = to + (c + k) * to_stride + r;
                if (left == LANES) store_loose(place, a[k]);
                else memcpy(place, &a[k], left * sizeof(real));
            }
        }
}

#endif
