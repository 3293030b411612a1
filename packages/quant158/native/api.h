// The C interface of the library, which Python calls through ctypes. Nothing here throws; sizes are checked by the
// caller, except where a result says otherwise.
#pragma once
#include <cstdint>

#define PENSTOCK_API extern "C" __attribute__((visibility("default")))

struct Kernel;
struct PackedMatrix;

// The number of the interface; the loader refuses a library of another.
constexpr int32_t PENSTOCK_ABI = 2;
PENSTOCK_API int32_t penstock_abi();

// Names of the kernels, the fastest first, and null after the last.
PENSTOCK_API const char* penstock_kernel_name(int32_t number);
// Null where the processor cannot run it.
PENSTOCK_API const Kernel* penstock_kernel(const char* name);
PENSTOCK_API int32_t penstock_self_test(const Kernel*);

// `count` matrices that follow one another in a file's codes and scales: see StoredMatrix in repack.h. Null, and the
// reason in `why`: 1 sizes that do not fit, 2 no memory, 3 a byte above 242 or a scale that is not normal and positive.
PENSTOCK_API PackedMatrix* penstock_matrix_new(const uint8_t* stream, int64_t first_trit, int64_t count, int64_t rows,
                                               int64_t columns, const uint16_t* scales, int64_t group, int64_t threads,
                                               int32_t* why);
PENSTOCK_API void penstock_matrix_free(PackedMatrix*);
PENSTOCK_API int64_t penstock_matrix_bytes(const PackedMatrix*);

// Each matrix times its vectors: out[vectors, rows] of x[vectors, columns], quantized to 8 (one plane) or 16 bits (two).
// `vectors` says for each how many it has, in x and in `out` one after another. 0, or 2: no memory.
PENSTOCK_API int32_t penstock_multiply(const Kernel*, const PackedMatrix*, const int64_t* vectors, const float* x,
                                       int64_t planes, int64_t threads, float* out);
