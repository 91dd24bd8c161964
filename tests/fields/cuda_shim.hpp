// What sweep.cu needs of CUDA, on the CPU: blocks run one after another, the threads of a block as threads with real
// barriers. Constants of the problem, which a GPU build is compiled for, are variables here; only REAL, RS and RC are
// given to the compiler. Built as  c++ -include cuda_shim.hpp -x c++ sweep.cu  with `driver` from SHIM_DRIVER below.
#pragma once
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define SHARED_MEMORY shim::shared

#define INTEGERS(X)                                                                                                    \
    X(N_X) X(N_Y) X(NODES) X(CHANNELS) X(TAPS) X(COMPONENTS) X(TIED) X(PADDING) X(CHECKPOINT) X(EQUATION) X(ORDER)     \
    X(ACTIVATION) X(STAGES) X(SLOTS) X(NODAL) X(SAMPLES) X(SPLITS) X(WORK_SHARED) X(WORK_SIZE) X(TAPS_SHARED)
#define NUMBERS(X) X(KAPPA) X(A_X)
#define TABLES(X) X(TABLEAU_A, tableau_a, REAL) X(TABLEAU_B, tableau_b, REAL) X(STAGE_NODES, stage_nodes, int)

#define DECLARE_INTEGER(name) static int name;
INTEGERS(DECLARE_INTEGER)
#define DECLARE_NUMBER(name) static double name;
NUMBERS(DECLARE_NUMBER)
#define TABLEAU_A {}
#define TABLEAU_B {}
#define STAGE_NODES {}

namespace shim {
struct Index {
    int x;
};
alignas(16) static unsigned char* shared = nullptr;
static thread_local std::barrier<>* barrier = nullptr;

template <class... P, std::size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>)
{
    kernel(*static_cast<P*>(arguments[I])...);
}
}  // namespace shim

static shim::Index gridDim, blockDim;
static thread_local shim::Index blockIdx, threadIdx;

static inline void __syncthreads()
{
    if (shim::barrier) shim::barrier->arrive_and_wait();
}

template <class T>
static inline void atomicAdd(T* to, T number)
{
    *to += number;  // plain, so that two threads which add to the same number are a race that a sanitizer sees
}

using std::erf, std::exp, std::fabs, std::log1p, std::tanh;

namespace shim {
template <class... P>
int launch(void (*kernel)(P...), int blocks, int threads, std::size_t bytes, void** arguments)
{
    gridDim.x = blocks, blockDim.x = threads;
    std::vector<long double> memory(bytes / sizeof(long double) + 2);  // aligned to 16 bytes
    // what no one has written is not a number
    for (std::size_t i = 0; i < bytes / sizeof(REAL); ++i) reinterpret_cast<REAL*>(memory.data())[i] = NAN;
    shared = reinterpret_cast<unsigned char*>(memory.data());
    std::barrier<> together(threads);
    auto thread = [&](int index) {
        threadIdx.x = index, barrier = threads > 1 ? &together : nullptr;
        for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
            call(kernel, arguments, std::index_sequence_for<P...>());
            __syncthreads();
        }
        barrier = nullptr;
    };
    std::vector<std::thread> others;
    for (int index = 1; index < threads; ++index) others.emplace_back(thread, index);
    thread(0);
    for (auto& other : others) other.join();
    return 0;
}
}  // namespace shim

// to be put behind sweep.cu: the two functions that Python calls; both return 0 when the name is known
#define SHIM_DRIVER                                                                                                    \
    extern "C" int set(const char* name, const double* values, int count)                                              \
    {                                                                                                                  \
        INTEGERS(SET_ONE) NUMBERS(SET_ONE) TABLES(SET_TABLE) return 1;                                                 \
    }                                                                                                                  \
    extern "C" int run(const char* name, int blocks, int threads, std::size_t bytes, void** arguments)                 \
    {                                                                                                                  \
        RUN(prepare) RUN(forward) RUN(adjoint) RUN(sum_shares) RUN(mix) return 1;                                      \
    }
#define SET_ONE(variable)                                                                                              \
    if (!std::strcmp(name, #variable)) {                                                                               \
        variable = static_cast<decltype(variable)>(values[0]);                                                         \
        return 0;                                                                                                      \
    }
#define SET_TABLE(title, table, type)                                                                                  \
    if (!std::strcmp(name, #title)) {                                                                                  \
        for (int i = 0; i < count; ++i) table[i] = static_cast<type>(values[i]);                                       \
        return 0;                                                                                                      \
    }
#define RUN(kernel)                                                                                                    \
    if (!std::strcmp(name, #kernel)) return shim::launch(kernel, blocks, threads, bytes, arguments);
