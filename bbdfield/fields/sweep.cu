// The whole depth sweep of the field equations in one launch: forward march, and its exact adjoint.
//
// Samples are independent in depth, so one thread block takes SAMPLES of them through all cells and Runge-Kutta stages;
// barriers replace launches. bbdfield/fields/cuda.py puts the problem's constants in front of this text as #defines and
// compiles it for them, so that sizes, equation and activation are known to the compiler. The equations are those of
// bbdfield/model/scalings, the march is solvers.sweeps.DepthMarch, the width operator is a sum over taps
//
//     (K s)_c(y) = sum_{k, c'} t[y][c][k][c'] s_c'(y + k - HALF),      t = stencil . w
//
// What bounds it, by counting: a multiply-add of tied taps in float64 wants a number of s (2 wavefronts a warp) and a
// tap (1, or 1/2 in vectors of two) from shared memory, which serves 1 wavefront a clock, while 2 multiply-adds of a
// warp could be done. So a thread keeps a tile of RS samples x RC channels in registers: 2 x 4 takes 6 wavefronts for 8
// multiply-adds, 2/3 of the peak rate, where batches are large; tiles are smaller where fewer than 4 warps would have
// work. Untied taps come from L2, once per RS samples. Tapes and shares of the gradient stream through memory once.
//
// Layouts, last index fastest:
//     in a block       [sample][c][y], padded [sample][c][y + HALF]: neighbouring threads take neighbouring y
//     taps             [node][k][c'][y | 1][c]; for the adjoint, mirrored and transposed, [node][k][c][y | 1][c']
//     partial weights  tied [slot][node][c'][c][k], untied [slot][node][k][c'][c][y]: each number has one owner, so the
//                      sums come out in the same order every time
//     tape             [group or block][cell][stage][v, f][sample][c][y]
// Outside arrays are z (n_y, C, B), bias (node, n_y, C), w (node, [n_y,] C, P, C).
//
// Every loop strides by the block, and barriers are reached by all threads: any number of threads is correct.

typedef REAL real;

#ifndef SHARED_MEMORY
extern __shared__ __align__(16) unsigned char shared_memory[];
#define SHARED_MEMORY shared_memory
#endif

enum { ZEROS, CIRCULAR, REFLECT };
enum { RESIDUAL, CRITICAL };
enum { TANH, SIGMOID, SOFTPLUS, RELU, GELU, IDENTITY };

#define HALF (TAPS / 2)
#define ROW (N_Y + 2 * HALF)
#define ITEMS (SAMPLES * CHANNELS * N_Y)
#define PADDED (SAMPLES * CHANNELS * ROW)
#define TILES ((SAMPLES / RS) * (CHANNELS / RC) * N_Y)
#define WIDTHS (TIED ? 1 : N_Y)
#define TAPS_SIZE (CHANNELS * TAPS * CHANNELS * WIDTHS)
#define FIELDS (1 + ORDER)
#define CELL_TAPE ((size_t)STAGES * FIELDS * ITEMS)
// tanh, relu and identity give their slope from their value, which then is what the tape remembers instead of z
#define FROM_VALUE (ACTIVATION == TANH || ACTIVATION == RELU || ACTIVATION == IDENTITY)
#define NEEDS_V (ORDER == 1 && !FROM_VALUE)

// h a_ij and h b_i of the Runge-Kutta scheme, and where in its cell each stage takes its coefficients
__constant__ real tableau_a[64] = TABLEAU_A;
__constant__ real tableau_b[8] = TABLEAU_B;
__constant__ int stage_nodes[8] = STAGE_NODES;

__device__ __forceinline__ int node_of(int cell, int stage)
{
    return NODAL ? 2 * cell + stage_nodes[stage] : cell;
}

// ---- activations: v = remember(z) is kept, value, slope and curvature follow from it; as in model/activations.py

__device__ __forceinline__ real remember(real z)
{
    if (ACTIVATION == TANH) return tanh(z);
    if (ACTIVATION == RELU) return z <= real(0) ? real(0) : z;  // not-a-number stays what it is
    return z;
}

__device__ __forceinline__ real value(real v)
{
    if (FROM_VALUE) return v;
    if (ACTIVATION == SIGMOID) {
        const real e = exp(-fabs(v));
        return (v >= real(0) ? real(1) : e) / (real(1) + e);
    }
    if (ACTIVATION == SOFTPLUS) return (v > real(0) ? v : real(0)) + log1p(exp(-fabs(v)));
    return v * (real(0.5) * (real(1) + erf(v * real(0.70710678118654752440))));
}

__device__ __forceinline__ real density(real v, real& a)
{
    a = fabs(v) > real(40) ? real(40) : fabs(v);  // the density is 0 there, and a * a cannot overflow
    return exp(real(-0.5) * a * a) * real(0.39894228040143267794);
}

__device__ __forceinline__ real slope(real v)
{
    if (ACTIVATION == TANH) return real(1) - v * v;
    if (ACTIVATION == RELU) return v > real(0) ? real(1) : real(0);
    if (ACTIVATION == IDENTITY) return real(1);
    if (ACTIVATION == GELU) {
        real a;
        return real(0.5) * (real(1) + erf(v * real(0.70710678118654752440))) + v * density(v, a);
    }
    const real e = exp(-fabs(v));
    if (ACTIVATION == SIGMOID) return e / ((real(1) + e) * (real(1) + e));
    return (v >= real(0) ? real(1) : e) / (real(1) + e);
}

__device__ __forceinline__ real curvature(real v)
{
    if (ACTIVATION == TANH) return real(-2) * v * (real(1) - v * v);
    if (ACTIVATION == RELU || ACTIVATION == IDENTITY) return real(0);
    if (ACTIVATION == GELU) {
        real a;
        const real d = density(v, a);
        return d * (real(2) - a * a);
    }
    const real e = exp(-fabs(v));
    const real d = e / ((real(1) + e) * (real(1) + e));
    return ACTIVATION == SIGMOID ? -d * tanh(real(0.5) * v) : d;
}

// ---- what a block works on

// pair: on the way forward z at the next site, then f; on the way back two cotangents of what K gives
struct Work {
    real *lam, *z, *pair, *slopes, *v, *padded, *taps;
    int slot, parity;
};

__device__ __forceinline__ Work arrange(real* scratch)
{
    real* shared = reinterpret_cast<real*>(SHARED_MEMORY);
    Work w;
    w.taps = shared;  // first, so that it is aligned for whole tiles
    real* next = WORK_SHARED ? shared + (TAPS_SHARED ? 2 * TAPS_SIZE : 0) : scratch + (size_t)blockIdx.x * WORK_SIZE;
    w.lam = next, next += ITEMS;
    w.z = next, next += ITEMS;
    w.pair = next, next += 2 * ITEMS;
    w.slopes = next, next += SLOTS * ITEMS;
    w.v = next, next += NEEDS_V ? ITEMS : 0;
    w.padded = next;
    w.slot = w.parity = 0;
    if (PADDING == ZEROS)
        for (int i = threadIdx.x; i < 2 * PADDED; i += blockDim.x) w.padded[i] = real(0);
    return w;
}

// RC channels from c on, RS samples from s on, at y
struct Tile {
    int y, c, s;
    __device__ __forceinline__ explicit Tile(int i)
        : y(i % N_Y), c(i / N_Y % (CHANNELS / RC) * RC), s(i / (N_Y * (CHANNELS / RC)) * RS) {}
    __device__ __forceinline__ int at(int sample, int channel) const
    {
        return ((s + sample) * CHANNELS + c + channel) * N_Y + y;
    }
    __device__ __forceinline__ int padded(int sample, int channel) const
    {
        return ((s + sample) * CHANNELS + c + channel) * ROW + y + HALF;
    }
};

#define FOR_TILES(t) for (int i_ = threadIdx.x; i_ < TILES; i_ += blockDim.x) if (const Tile t(i_); true)
#define FOR_TILE(s, r) _Pragma("unroll") for (int s = 0; s < RS; ++s) _Pragma("unroll") for (int r = 0; r < RC; ++r)

// a number and its images beyond the edges
__device__ __forceinline__ void put(real* padded, const Tile& t, int s, int r, real number)
{
    real* here = padded + t.padded(s, r);
    *here = number;
    if (PADDING == CIRCULAR) {
        if (t.y < HALF) here[N_Y] = number;
        if (t.y >= N_Y - HALF) here[-N_Y] = number;
    }
    if (PADDING == REFLECT) {
        if (t.y < HALF) here[-2 * t.y - 1] = number;
        if (t.y >= N_Y - HALF) here[2 * (N_Y - 1 - t.y) + 1] = number;
    }
}

// ---- taps: tied ones are copied to shared memory while the previous stage computes

__device__ __forceinline__ void copy_in(const Work& w, const real* taps, int node, int slot)
{
    const real* from = taps + (size_t)node * TAPS_SIZE;
    real* to = w.taps + slot * TAPS_SIZE;
    for (int i = threadIdx.x; i < TAPS_SIZE; i += blockDim.x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"((unsigned)__cvta_generic_to_shared(to + i)),
                     "l"(from + i), "n"((int)sizeof(real)) : "memory");
#else
        to[i] = from[i];
#endif
    }
}

// the barrier behind which copied taps are there
__device__ __forceinline__ void join()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (TAPS_SHARED) asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    __syncthreads();
}

__device__ __forceinline__ void first_taps(Work& w, const real* taps, int node)
{
    if (TAPS_SHARED) copy_in(w, taps, node, w.slot = 0);
}

// taps of this node; begins to fetch those of the next (-1: there is none)
__device__ __forceinline__ const real* taps_of(Work& w, const real* taps, int node, int next)
{
    if (!TAPS_SHARED) return taps + (size_t)node * TAPS_SIZE;
    const real* here = w.taps + w.slot * TAPS_SIZE;
    if (next >= 0 && next != node) copy_in(w, taps, next, w.slot ^= 1);
    return here;
}

struct alignas(sizeof(real) * RC < 16 ? sizeof(real) * RC : 16) Pack {
    real of[RC];
};

__device__ __forceinline__ Pack pack(const real* from)
{
    return *reinterpret_cast<const Pack*>(from);
}

// sum_{k, c'} t s over a padded field
__device__ __forceinline__ void correlate(real (&sum)[RS][RC], const real* taps, const real* padded, const Tile& t)
{
    FOR_TILE(s, r) sum[s][r] = real(0);
    const real* from = padded + t.s * CHANNELS * ROW + t.y;
    for (int k = 0; k < TAPS; ++k) {
#pragma unroll 8
        for (int ci = 0; ci < CHANNELS; ++ci) {
            const Pack p = pack(taps + ((k * CHANNELS + ci) * WIDTHS + (TIED ? 0 : t.y)) * CHANNELS + t.c);
#pragma unroll
            for (int s = 0; s < RS; ++s) {
                const real number = from[(s * CHANNELS + ci) * ROW + k];
#pragma unroll
                for (int r = 0; r < RC; ++r) sum[s][r] += p.of[r] * number;
            }
        }
    }
}

// the part of its transpose that arrives at the padded cell q
__device__ __forceinline__ void arrive(real (&sum)[RS][RC], const real* back, const real* g, const Tile& t, int q)
{
    const int shift = q - 2 * HALF;
    const int first = shift < 0 ? -shift : 0, last = shift + TAPS > N_Y ? N_Y - shift : TAPS;
    const real* from = g + t.s * CHANNELS * N_Y + shift;
    for (int k = first; k < last; ++k) {
#pragma unroll 8
        for (int ci = 0; ci < CHANNELS; ++ci) {
            const Pack p = pack(back + ((k * CHANNELS + ci) * WIDTHS + (TIED ? 0 : shift + k)) * CHANNELS + t.c);
#pragma unroll
            for (int s = 0; s < RS; ++s) {
                const real number = from[(s * CHANNELS + ci) * N_Y + k];
#pragma unroll
                for (int r = 0; r < RC; ++r) sum[s][r] += p.of[r] * number;
            }
        }
    }
}

// the transpose, images beyond the edges folded back
__device__ __forceinline__ void correlate_back(real (&sum)[RS][RC], const real* back, const real* g, const Tile& t)
{
    FOR_TILE(s, r) sum[s][r] = real(0);
    arrive(sum, back, g, t, t.y + HALF);
    if (PADDING == CIRCULAR) {
        if (t.y < HALF) arrive(sum, back, g, t, t.y + HALF + N_Y);
        if (t.y >= N_Y - HALF) arrive(sum, back, g, t, t.y + HALF - N_Y);
    }
    if (PADDING == REFLECT) {
        if (t.y < HALF) arrive(sum, back, g, t, HALF - 1 - t.y);
        if (t.y >= N_Y - HALF) arrive(sum, back, g, t, HALF + 2 * N_Y - 1 - t.y);
    }
}

// ---- the equations' local parts

// what the second application of K acts on at order 1
__device__ __forceinline__ real inner(real v, real f)
{
    return EQUATION == RESIDUAL ? slope(v) * f : real(A_X * KAPPA) * v * v * v + real(0.5 * A_X) * f;
}

// G_1 from F and K p
__device__ __forceinline__ real corrected(real v, real f, real kp)
{
    if (EQUATION == RESIDUAL) return f - real(0.5 * A_X) * kp;
    const real square = v * v;
    return f + real(1.2 * A_X * KAPPA * KAPPA) * square * square * v + real(1.5 * A_X * KAPPA) * square * f - kp;
}

// ---- forward

__device__ __forceinline__ real stage_value(const Work& w, int stage, int at)
{
    real z = w.z[at];
    for (int j = 0; j < stage; ++j) {
        const real weight = tableau_a[stage * STAGES + j];
        if (weight != real(0)) z += weight * w.slopes[j % SLOTS * ITEMS + at];
    }
    return z;
}

__device__ __forceinline__ void finish(const Work& w, int stage, int at, real k)
{
    w.slopes[stage % SLOTS * ITEMS + at] = k;
    const real z = (stage == 0 ? w.z[at] : w.pair[at]) + tableau_b[stage] * k;
    (stage + 1 == STAGES ? w.z : w.pair)[at] = z;
}

// One cell. Fields have two buffers in turn (at order 0 the padded ones, at order 1 s and p), so that one barrier per
// application of K is enough: who writes the one buffer knows that all have left it two barriers ago.
__device__ __forceinline__ void advance(Work& w, const real* taps, const real* bias, int cell, int after, real* tape)
{
    for (int stage = 0; stage < STAGES; ++stage) {
        const int node = node_of(cell, stage), next = stage + 1 < STAGES ? node_of(cell, stage + 1) : after;
        real *s_padded = w.padded + (ORDER == 0 ? w.parity * PADDED : 0), *p_padded = w.padded + PADDED;
        real* record = tape + (size_t)stage * FIELDS * ITEMS;
        FOR_TILES(t) FOR_TILE(s, r) {
            const int at = t.at(s, r);
            const real v = remember(stage_value(w, stage, at));
            if (tape) record[at] = v;
            if (NEEDS_V) w.v[at] = v;
            put(s_padded, t, s, r, value(v));
        }
        join();
        const real* here = taps_of(w, taps, node, next);
        FOR_TILES(t) {
            real sum[RS][RC];
            correlate(sum, here, s_padded, t);
            FOR_TILE(s, r) {
                const int at = t.at(s, r);
                const real v = NEEDS_V ? w.v[at] : s_padded[t.padded(s, r)];
                real f = sum[s][r] + bias[((size_t)node * N_Y + t.y) * CHANNELS + t.c + r];
                if (EQUATION == CRITICAL) f -= real(KAPPA) * v * v * v;
                if (ORDER == 0) {
                    finish(w, stage, at, f);
                } else {
                    w.pair[ITEMS + at] = f;
                    if (tape) record[ITEMS + at] = f;
                    put(p_padded, t, s, r, inner(v, f));
                }
            }
        }
        if (ORDER == 1) {
            __syncthreads();
            FOR_TILES(t) {
                real sum[RS][RC];
                correlate(sum, here, p_padded, t);
                FOR_TILE(s, r) {
                    const int at = t.at(s, r);
                    const real v = NEEDS_V ? w.v[at] : s_padded[t.padded(s, r)];
                    finish(w, stage, at, corrected(v, w.pair[ITEMS + at], sum[s][r]));
                }
            }
        }
        w.parity ^= 1;
    }
}

// samples beyond the last are copies of it, whose cotangents are 0
__device__ __forceinline__ size_t outside(const Tile& t, int s, int r, int first, int samples)
{
    const int sample = first + t.s + s;
    return ((size_t)t.y * CHANNELS + t.c + r) * samples + (sample < samples ? sample : samples - 1);
}

__device__ __forceinline__ void write_out(const Work& w, real* out, int first, int samples)
{
    FOR_TILES(t) FOR_TILE(s, r) if (first + t.s + s < samples) out[outside(t, s, r, first, samples)] = w.z[t.at(s, r)];
}

// from z0 to z_end; with `keep` leaving a tape of all stages or, with checkpoints, z every CHECKPOINT cells
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
forward(const real* z0, const real* taps, const real* bias, real* z_end, real* sites, real* tape, real* checkpoints,
        real* scratch, int samples, int keep, int all_sites)
{
    Work w = arrange(scratch);
    const int segments = CHECKPOINT ? (N_X + CHECKPOINT - 1) / CHECKPOINT : 0;
    for (int group = blockIdx.x; group * SAMPLES < samples; group += gridDim.x) {
        const int first = group * SAMPLES;
        __syncthreads();
        first_taps(w, taps, node_of(0, 0));
        FOR_TILES(t) FOR_TILE(s, r) w.z[t.at(s, r)] = z0[outside(t, s, r, first, samples)];
        for (int cell = 0; cell < N_X; ++cell) {
            if (all_sites) write_out(w, sites + (size_t)cell * N_Y * CHANNELS * samples, first, samples);
            real* record = nullptr;
            if (keep && !CHECKPOINT) record = tape + ((size_t)group * N_X + cell) * CELL_TAPE;
            if (keep && CHECKPOINT && cell % (CHECKPOINT ? CHECKPOINT : 1) == 0) {
                real* saved = checkpoints + ((size_t)group * segments + cell / (CHECKPOINT ? CHECKPOINT : 1)) * ITEMS;
                FOR_TILES(t) FOR_TILE(s, r) saved[t.at(s, r)] = w.z[t.at(s, r)];
            }
            advance(w, taps, bias, cell, cell + 1 < N_X ? node_of(cell + 1, 0) : -1, record);
        }
        write_out(w, z_end, first, samples);
        if (all_sites) write_out(w, sites + (size_t)N_X * N_Y * CHANNELS * samples, first, samples);
    }
}

// ---- adjoint: reverse mode of z' = z + h sum b_i k_i, k_i = G(z + h sum_j a_ij k_j)

// cotangent of k_i: h b_i lambda + sum_{j > i} h a_ji zbar_j
__device__ __forceinline__ real slope_bar(const Work& w, int stage, int at)
{
    real g = tableau_b[stage] * w.lam[at];
    for (int j = stage + 1; j < STAGES; ++j) {
        const real weight = tableau_a[j * STAGES + stage];
        if (weight != real(0)) g += weight * w.slopes[j % SLOTS * ITEMS + at];
    }
    return g;
}

__device__ __forceinline__ void collect(const Work& w, int stage, int at, real z_bar)
{
    w.slopes[stage % SLOTS * ITEMS + at] = z_bar;
    const real total = (stage == STAGES - 1 ? w.lam[at] : w.z[at]) + z_bar;
    (stage == 0 ? w.lam : w.z)[at] = total;
}

// t_bar += g x s (and g' x p at order 1): every number has one thread, so no two blocks or threads add to the same
__device__ __forceinline__ void add_weights(
    real* partial, int node, const real* g, const real* s_padded, const real* g2, const real* p_padded)
{
    if (TIED) {
        const int split_size = CHANNELS * TAPS * (CHANNELS / RC);
        for (int i = threadIdx.x; i < SPLITS * split_size; i += blockDim.x) {
            const int k = i % TAPS, c = i / TAPS % (CHANNELS / RC) * RC, ci = i / (TAPS * (CHANNELS / RC)) % CHANNELS;
            const int split = i / split_size;
            real sum[RC];
#pragma unroll
            for (int r = 0; r < RC; ++r) sum[r] = real(0);
            for (int s = 0; s < SAMPLES; ++s) {
                const int row = (s * CHANNELS + ci) * ROW + k, at = (s * CHANNELS + c) * N_Y;
#pragma unroll 4
                for (int y = split; y < N_Y; y += SPLITS) {
                    const real number = s_padded[row + y], second = ORDER == 1 ? p_padded[row + y] : real(0);
#pragma unroll
                    for (int r = 0; r < RC; ++r) {
                        sum[r] += g[at + r * N_Y + y] * number;
                        if (ORDER == 1) sum[r] += g2[at + r * N_Y + y] * second;
                    }
                }
            }
            real* to = partial + (((size_t)blockIdx.x * SPLITS + split) * NODES + node) * TAPS_SIZE;
#pragma unroll
            for (int r = 0; r < RC; ++r) atomicAdd(to + (ci * CHANNELS + c + r) * TAPS + k, sum[r]);
        }
        return;
    }
    real* to = partial + ((size_t)blockIdx.x * NODES + node) * TAPS_SIZE;
    for (int i = threadIdx.x; i < N_Y * (CHANNELS / RC) * CHANNELS; i += blockDim.x) {
        const int y = i % N_Y, c = i / N_Y % (CHANNELS / RC) * RC, ci = i / (N_Y * (CHANNELS / RC));
        for (int s0 = 0; s0 < SAMPLES; s0 += RS) {
            real mine[RS][RC], mine2[RS][RC];
            FOR_TILE(s, r) {
                mine[s][r] = g[((s0 + s) * CHANNELS + c + r) * N_Y + y];
                mine2[s][r] = ORDER == 1 ? g2[((s0 + s) * CHANNELS + c + r) * N_Y + y] : real(0);
            }
            for (int k = 0; k < TAPS; ++k) {
                real sum[RC];
#pragma unroll
                for (int r = 0; r < RC; ++r) sum[r] = real(0);
                FOR_TILE(s, r) {
                    const int from = ((s0 + s) * CHANNELS + ci) * ROW + y + k;
                    sum[r] += mine[s][r] * s_padded[from];
                    if (ORDER == 1) sum[r] += mine2[s][r] * p_padded[from];
                }
#pragma unroll
                for (int r = 0; r < RC; ++r) atomicAdd(to + ((k * CHANNELS + ci) * CHANNELS + c + r) * N_Y + y, sum[r]);
            }
        }
    }
}

__device__ __forceinline__ void add_bias(real* partial, int node, const real* g)
{
    real* to = partial + ((size_t)blockIdx.x * NODES + node) * N_Y * CHANNELS;
    for (int i = threadIdx.x; i < CHANNELS * N_Y; i += blockDim.x) {
        real sum = real(0);
        for (int s = 0; s < SAMPLES; ++s) sum += g[s * CHANNELS * N_Y + i];
        atomicAdd(to + i % N_Y * CHANNELS + i / N_Y, sum);
    }
}

__device__ __forceinline__ void retreat(
    Work& w, const real* back, int cell, int after, const real* tape, real* partial_w, real* partial_b)
{
    for (int stage = STAGES - 1; stage >= 0; --stage) {
        const int node = node_of(cell, stage), next = stage > 0 ? node_of(cell, stage - 1) : after;
        const int turn = ORDER == 0 ? w.parity : 0;
        real *s_padded = w.padded + turn * PADDED, *p_padded = w.padded + PADDED;
        real *g = w.pair + turn * ITEMS, *g2 = w.pair + ITEMS;
        const real *record = tape + (size_t)stage * FIELDS * ITEMS, *record_f = record + ITEMS;
        FOR_TILES(t) FOR_TILE(s, r) {
            const int at = t.at(s, r);
            const real v = record[at], k_bar = slope_bar(w, stage, at);
            put(s_padded, t, s, r, value(v));
            if (ORDER == 0) {
                g[at] = k_bar;
            } else {
                g2[at] = EQUATION == RESIDUAL ? real(-0.5 * A_X) * k_bar : -k_bar;
                put(p_padded, t, s, r, inner(v, record_f[at]));
            }
        }
        join();
        const real* here = taps_of(w, back, node, next);
        FOR_TILES(t) {
            real sum[RS][RC];
            correlate_back(sum, here, ORDER == 0 ? g : g2, t);
            FOR_TILE(s, r) {
                const int at = t.at(s, r);
                const real v = FROM_VALUE ? s_padded[t.padded(s, r)] : record[at];
                if (ORDER == 0) {
                    const real z_bar = EQUATION == RESIDUAL ? slope(v) * sum[s][r]
                                                            : sum[s][r] - real(3 * KAPPA) * v * v * g[at];
                    collect(w, stage, at, z_bar);
                } else {
                    const real k_bar = slope_bar(w, stage, at), p_bar = sum[s][r], f = record_f[at], square = v * v;
                    real f_bar, rest;
                    if (EQUATION == RESIDUAL) {
                        f_bar = k_bar + slope(v) * p_bar;
                        rest = curvature(v) * f * p_bar;
                    } else {
                        f_bar = k_bar + real(1.5 * A_X * KAPPA) * square * k_bar + real(0.5 * A_X) * p_bar;
                        rest = real(3 * A_X * KAPPA) * square * p_bar
                             + real(6 * A_X * KAPPA * KAPPA) * square * square * k_bar
                             + real(3 * A_X * KAPPA) * v * f * k_bar;
                    }
                    g[at] = f_bar;
                    w.slopes[stage % SLOTS * ITEMS + at] = rest;
                }
            }
        }
        if (ORDER == 1) {
            __syncthreads();
            FOR_TILES(t) {
                real sum[RS][RC];
                correlate_back(sum, here, g, t);
                FOR_TILE(s, r) {
                    const int at = t.at(s, r);
                    const real v = FROM_VALUE ? s_padded[t.padded(s, r)] : record[at];
                    const real rest = w.slopes[stage % SLOTS * ITEMS + at];
                    const real z_bar = EQUATION == RESIDUAL ? slope(v) * sum[s][r]
                                                            : sum[s][r] - real(3 * KAPPA) * v * v * g[at];
                    collect(w, stage, at, rest + z_bar);
                }
            }
        }
        add_weights(partial_w, node, g, s_padded, g2, p_padded);
        add_bias(partial_b, node, g);
        if (ORDER == 1) __syncthreads();
        w.parity ^= 1;
    }
}

// from lambda at the last site to this block's share of the cotangents of taps and bias
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
adjoint(const real* lam, const real* taps, const real* back, const real* bias, real* tape, const real* checkpoints,
        real* partial_w, real* partial_b, real* scratch, int samples)
{
    Work w = arrange(scratch);
    const int length = CHECKPOINT ? CHECKPOINT : N_X, segments = (N_X + length - 1) / length;
    const size_t share = (size_t)NODES * TAPS_SIZE * SPLITS, share_b = (size_t)NODES * N_Y * CHANNELS;
    for (size_t i = threadIdx.x; i < share; i += blockDim.x) partial_w[blockIdx.x * share + i] = real(0);
    for (size_t i = threadIdx.x; i < share_b; i += blockDim.x) partial_b[blockIdx.x * share_b + i] = real(0);
    for (int group = blockIdx.x; group * SAMPLES < samples; group += gridDim.x) {
        const int first = group * SAMPLES;
        FOR_TILES(t) FOR_TILE(s, r)
            w.lam[t.at(s, r)] = first + t.s + s < samples ? lam[outside(t, s, r, first, samples)] : real(0);
        for (int segment = segments - 1; segment >= 0; --segment) {
            const int start = segment * length, stop = start + length < N_X ? start + length : N_X;
            real* record = tape + (size_t)(CHECKPOINT ? blockIdx.x : group) * length * CELL_TAPE;
            if (CHECKPOINT) {  // march through the segment once more
                __syncthreads();
                first_taps(w, taps, node_of(start, 0));
                const real* saved = checkpoints + ((size_t)group * segments + segment) * ITEMS;
                FOR_TILES(t) FOR_TILE(s, r) w.z[t.at(s, r)] = saved[t.at(s, r)];
                for (int cell = start; cell < stop; ++cell)
                    advance(w, taps, bias, cell, cell + 1 < stop ? node_of(cell + 1, 0) : -1,
                            record + (cell - start) * CELL_TAPE);
            }
            __syncthreads();
            first_taps(w, back, node_of(stop - 1, STAGES - 1));
            for (int cell = stop - 1; cell >= start; --cell)
                retreat(w, back, cell, cell > start ? node_of(cell - 1, STAGES - 1) : -1,
                        record + (cell - start) * CELL_TAPE, partial_w, partial_b);
        }
    }
}

// ---- before and after

__device__ __forceinline__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long stride() { return (long long)gridDim.x * blockDim.x; }

// taps = stencil . w, laid out for the march, and with `both` for its adjoint
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
prepare(const real* w, const real* stencil, real* taps, real* back, int both)
{
    for (long long i = first_index(); i < (long long)NODES * TAPS_SIZE; i += stride()) {
        const int c = i % CHANNELS, y = i / CHANNELS % WIDTHS, ci = i / (CHANNELS * WIDTHS) % CHANNELS;
        const int k = i / (CHANNELS * WIDTHS * CHANNELS) % TAPS;
        const long long node = i / TAPS_SIZE;
        real sum = real(0);
        for (int p = 0; p < COMPONENTS; ++p) {
            const real weight = stencil[k * COMPONENTS + p];
            if (weight != real(0))
                sum += weight * w[(((node * WIDTHS + y) * CHANNELS + c) * COMPONENTS + p) * CHANNELS + ci];
        }
        taps[i] = sum;
        if (both)
            back[node * TAPS_SIZE + (((TAPS - 1 - k) * CHANNELS + c) * WIDTHS + y) * CHANNELS + ci] = sum;
    }
}

// out[e] = sum over the shares of blocks, in order; in float64. `columns` threads side by side, the others share rows
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
sum_shares(const real* shares, real* out, int count, long long size, int columns)
{
    double* sums = reinterpret_cast<double*>(SHARED_MEMORY);
    const int rows = blockDim.x / columns, column = threadIdx.x % columns, row = threadIdx.x / columns;
    for (long long e0 = (long long)blockIdx.x * columns; e0 < size; e0 += (long long)gridDim.x * columns) {
        const long long e = e0 + column;
        double sum = 0;
        if (e < size)
            for (int share = row; share < count; share += rows) sum += shares[share * size + e];
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (row == 0 && e < size) {
            for (int other = 1; other < rows; ++other) sum += sums[other * columns + column];
            out[e] = sum;
        }
        __syncthreads();
    }
}

// w_bar = stencil^T . t_bar, in w's layout
extern "C" __global__ void __launch_bounds__(MAX_THREADS)
mix(const real* t_bar, const real* stencil, real* w_bar)
{
    for (long long i = first_index(); i < (long long)NODES * WIDTHS * CHANNELS * COMPONENTS * CHANNELS; i += stride()) {
        const int ci = i % CHANNELS, p = i / CHANNELS % COMPONENTS, c = i / (CHANNELS * COMPONENTS) % CHANNELS;
        const int y = i / (CHANNELS * COMPONENTS * CHANNELS) % WIDTHS;
        const long long node = i / ((long long)CHANNELS * COMPONENTS * CHANNELS * WIDTHS);
        const real* from = t_bar + node * TAPS_SIZE;
        real sum = real(0);
        for (int k = 0; k < TAPS; ++k) {
            const real weight = stencil[k * COMPONENTS + p];
            const int at = TIED ? (ci * CHANNELS + c) * TAPS + k : ((k * CHANNELS + ci) * CHANNELS + c) * N_Y + y;
            if (weight != real(0)) sum += weight * from[at];
        }
        w_bar[i] = sum;
    }
}
