// Which kernels this library has, which of them the processor and the system can run, and whether one really works.
#pragma once
#include "kernel.h"

constexpr int KERNELS = 4;
extern const char* const KERNEL_NAMES[KERNELS];  // the fastest first

// The kernel of a name; null where the name is unknown or the processor lacks the instructions.
const Kernel* supported_kernel(const char* name);

// Whether the kernel gives the bits of the portable one, tried in a child process: an illegal instruction ends only
// that. False too where no process can be started.
bool passes_self_test(const Kernel&);
