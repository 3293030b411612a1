// A pool of threads that share the parts of one phase after another.
//
// The caller works too and takes every part that no helper takes, so a helper that the system has put aside delays
// nothing but the part that it holds. Helpers spin between the phases of a token, because a phase lasts microseconds,
// and sleep between texts. Who computes a part does not change its result.
#pragma once
#include <cstdint>

class Pool;

using Call = void (*)(const void* work, int64_t part);

Pool* pool_new(int threads);  // throws where the system has no more threads
void pool_free(Pool*);
int64_t pool_threads(const Pool*);

// Calls call(work, part) for each part below `parts`, 2 to 65,535, and returns when all have ended.
void pool_run(Pool*, int64_t parts, Call call, const void* work);
