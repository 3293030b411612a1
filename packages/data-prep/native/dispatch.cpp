// Which kernels the processor and the system can run.
#include <vector>

#include "api.h"
#include "kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

#if defined(__x86_64__)

bool has_sha1() {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx >> 29 & 1) && __builtin_cpu_supports("sse4.1");
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#endif

std::vector<Kernel> found() {
    std::vector<Kernel> kernels;
#if defined(__x86_64__)
    auto add = [&](Kernel kernel, const char* with_sha1) {
        if (has_sha1()) {
            kernels.push_back(kernel);
            kernels.back().name = with_sha1;
            kernels.back().sha1_block = sha1_block_extensions;
        }
        kernels.push_back(kernel);
    };
    if (has_avx512()) add(avx512_permute, "avx512+sha");
    if (__builtin_cpu_supports("avx2")) add(avx2_permute, "avx2+sha");
#endif
    kernels.push_back(portable_permute);
    return kernels;
}

}  // namespace

const Kernel* penstock_kernel(int32_t number) {
    static const std::vector<Kernel> kernels = found();
    return number >= 0 && number < static_cast<int32_t>(kernels.size()) ? &kernels[number] : nullptr;
}

const char* penstock_kernel_name(const Kernel* kernel) { return kernel->name; }
