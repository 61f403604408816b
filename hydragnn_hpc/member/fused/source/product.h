/* The two matrix kernels that do nearly all arithmetic, held in registers.
 *
 * A set of "columns" is an array of `count` columns, `stride` vectors apart; a column is a run of
 * vectors, one per feature, and a vector holds one value per sample (the lanes).
 *   multiply:   out[t][r]  = start[r] + sum_k m[r][k] in[t][k]    (or added to out)
 *   outer_add:  d[r][c]   += sum over columns t and lanes of left[t][r] right[t][c]
 */
#ifndef FUSED_PRODUCT_H
#define FUSED_PRODUCT_H

#include "vector.h"

typedef struct {
    vec *data;
    long stride, count;
    long blocks, jump; /* outer_add: the same columns of several blocks, `jump` vectors apart */
} Columns;

typedef struct { /* element (r, k) is data[r * row_stride + k * depth_stride]: a transpose costs nothing */
    const real *data;
    long rows, depth, row_stride, depth_stride;
} Matrix;

#if VECTOR_BYTES == 64 /* 32 vector registers */
#define TILE_COLUMNS 4
#define OUTER_COLUMNS 4
#else /* 16 */
#define TILE_COLUMNS 2
#define OUTER_COLUMNS 2
#endif
#define TILE_ROWS 5
#define OUTER_ROWS 4

/* A row of a tile of the outer product. */
typedef real outer_row __attribute__((vector_size(OUTER_COLUMNS * sizeof(real)), may_alias, aligned(sizeof(real))));

INLINE Columns columns(vec *data, long stride, long count) { return (Columns){data, stride, count, 1, 0}; }
INLINE Matrix rows_of(const real *data, long rows, long depth, long row_stride) {
    return (Matrix){data, rows, depth, row_stride, 1};
}
INLINE Matrix transposed(Matrix m) {
    return (Matrix){m.data, m.depth, m.rows, m.depth_stride, m.row_stride};
}

/* One tile of R rows and T columns; R and T are literals, so the accumulators live in registers. */
INLINE void multiply_tile(int R, int T, Matrix m, const real *bias, int add, const vec *in, long in_stride, vec *out,
                          long out_stride) {
    vec acc[TILE_ROWS][TILE_COLUMNS];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++)
        acc[r][t] = add ? out[t * out_stride + r] : (vec){};
    if (bias) {
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) acc[r][t] += bias[r];
    }
    const real *weight[TILE_ROWS];
    UNROLL for (int r = 0; r < R; r++) weight[r] = m.data + r * m.row_stride;
    for (long k = 0; k < m.depth; k++) {
        vec x[TILE_COLUMNS];
        UNROLL for (int t = 0; t < T; t++) x[t] = in[t * in_stride + k];
        UNROLL for (int r = 0; r < R; r++) {
            real w = weight[r][k * m.depth_stride];
            UNROLL for (int t = 0; t < T; t++) acc[r][t] += w * x[t];
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int t = 0; t < T; t++) out[t * out_stride + r] = acc[r][t];
}

INLINE void multiply_strip(int T, Matrix m, const real *bias, int add, Columns in, Columns out, long t) {
    const vec *from = in.data + t * in.stride;
    vec *to = out.data + t * out.stride;
    for (long r = 0; r < m.rows; r += TILE_ROWS) {
        Matrix part = m;
        part.data += r * m.row_stride;
        const real *part_bias = bias ? bias + r : bias;
#define TILE(R) multiply_tile(R, T, part, part_bias, add, from, in.stride, to + r, out.stride)
        switch (m.rows - r) {
        case 1: TILE(1); break;
        case 2: TILE(2); break;
        case 3: TILE(3); break;
        case 4: TILE(4); break;
        default: TILE(5); break;
        }
#undef TILE
    }
}

static void multiply_from(Matrix m, const real *bias, int add, Columns in, Columns out) {
    long t = 0;
    for (; t + TILE_COLUMNS <= in.count; t += TILE_COLUMNS)
        multiply_strip(TILE_COLUMNS, m, bias, add, in, out, t);
#if TILE_COLUMNS > 2
    for (; t + 2 <= in.count; t += 2) multiply_strip(2, m, bias, add, in, out, t);
#endif
    for (; t < in.count; t++) multiply_strip(1, m, bias, add, in, out, t);
}

static void multiply(Matrix m, Columns in, Columns out) { multiply_from(m, NULL, 0, in, out); }
static void multiply_add(Matrix m, Columns in, Columns out) { multiply_from(m, NULL, 1, in, out); }
static void multiply_bias(Matrix m, const real *bias, Columns in, Columns out) {
    multiply_from(m, bias, 0, in, out);
}

/* Sums over the lanes of one tile's products: sum[i][j] of row i and column j of the tile. At an edge (`ragged`) the
 * last row and column are repeated, so that nothing is read past them. */
INLINE void outer_tile(int ragged, Columns left, long rows, Columns right, long cols, real *sum) {
    vec acc[OUTER_ROWS * OUTER_COLUMNS];
    UNROLL for (int k = 0; k < OUTER_ROWS * OUTER_COLUMNS; k++) acc[k] = (vec){};
    for (long b = 0; b < left.blocks; b++) {
        const vec *g = left.data + b * left.jump, *a = right.data + b * right.jump;
        for (long t = 0; t < left.count; t++, g += left.stride, a += right.stride) {
            vec y[OUTER_COLUMNS];
            UNROLL for (int j = 0; j < OUTER_COLUMNS; j++) y[j] = a[ragged && j >= cols ? cols - 1 : j];
            UNROLL for (int i = 0; i < OUTER_ROWS; i++) {
                vec x = g[ragged && i >= rows ? rows - 1 : i];
                UNROLL for (int j = 0; j < OUTER_COLUMNS; j++) acc[i * OUTER_COLUMNS + j] += x * y[j];
            }
        }
    }
    UNROLL for (int k = 0; k < OUTER_ROWS * OUTER_COLUMNS; k += LANES) store_loose(sum + k, sum_each(acc + k));
}

/* d[r * stride + c] += sum over columns and lanes of left[.][r] right[.][c] */
static void outer_add(Columns left, long rows, Columns right, long cols, real *d, long stride) {
    real sum[OUTER_ROWS * OUTER_COLUMNS];
    for (long c = 0; c < cols; c += OUTER_COLUMNS) /* the slice of `right` stays in the first-level cache */
        for (long r = 0; r < rows; r += OUTER_ROWS) {
            Columns g = left, a = right;
            real *to = d + r * stride + c;
            g.data += r;
            a.data += c;
            if (r + OUTER_ROWS <= rows && c + OUTER_COLUMNS <= cols) {
                outer_tile(0, g, OUTER_ROWS, a, OUTER_COLUMNS, sum);
                UNROLL for (int i = 0; i < OUTER_ROWS; i++)
                    *(outer_row *)(to + i * stride) += *(outer_row *)(sum + i * OUTER_COLUMNS);
            } else {
                outer_tile(1, g, rows - r, a, cols - c, sum);
                for (int i = 0; i < OUTER_ROWS && r + i < rows; i++)
                    for (int j = 0; j < OUTER_COLUMNS && c + j < cols; j++)
                        to[i * stride + j] += sum[i * OUTER_COLUMNS + j];
            }
        }
}

/* d[r] += sum over columns and lanes of left[.][r] */
static void sum_add(Columns left, long rows, real *d) {
    for (long r = 0; r < rows; r++) {
        vec sum = {};
        for (long t = 0; t < left.count; t++) sum += left.data[t * left.stride + r];
        d[r] += sum_lanes(sum);
    }
}

#endif
