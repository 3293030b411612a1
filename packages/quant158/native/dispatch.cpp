#include "dispatch.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

const char* const KERNEL_NAMES[KERNELS] = {"avx512vnni", "avx2", "neon", "portable"};

namespace {

#if defined(__x86_64__)

struct Leaf { unsigned eax, ebx, ecx, edx; };

Leaf cpuid(unsigned number) {
    Leaf leaf{};
    __get_cpuid_count(number, 0, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx);  // zeros beyond the highest leaf
    return leaf;
}

bool has(unsigned bits, int bit) { return bits >> bit & 1; }

// The registers that the operating system saves; a processor's instructions are of no use without.
unsigned saved_registers() {
    if (!has(cpuid(1).ecx, 27)) return 0;  // OSXSAVE
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool has_avx2() {
    const unsigned xmm_ymm = 0x06, basic = cpuid(1).ecx;
    const bool avx = has(basic, 28), f16c = has(basic, 29), avx2 = has(cpuid(7).ebx, 5);
    return avx && f16c && avx2 && (saved_registers() & xmm_ymm) == xmm_ymm;
}

bool has_avx512vnni() {
    const unsigned with_zmm = 0xe6;
    const Leaf extended = cpuid(7);
    const bool f = has(extended.ebx, 16), dq = has(extended.ebx, 17), bw = has(extended.ebx, 30);
    const bool vl = has(extended.ebx, 31), vnni = has(extended.ecx, 11);
    return has_avx2() && f && dq && bw && vl && vnni && (saved_registers() & with_zmm) == with_zmm;
}

#elif defined(__aarch64__)

bool has_dot_product() {
#if defined(__APPLE__)
    return true;  // every Apple processor of 64 bits that runs macOS has it
#elif defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
    return false;
#endif
}

#endif

}  // namespace

const Kernel* supported_kernel(const char* name) {
#if defined(__x86_64__)
    if (!std::strcmp(name, kernel_avx512vnni.name)) return has_avx512vnni() ? &kernel_avx512vnni : nullptr;
    if (!std::strcmp(name, kernel_avx2.name)) return has_avx2() ? &kernel_avx2 : nullptr;
#elif defined(__aarch64__)
    if (!std::strcmp(name, kernel_neon.name)) return has_dot_product() ? &kernel_neon : nullptr;
#endif
    return std::strcmp(name, kernel_portable.name) ? nullptr : &kernel_portable;
}
