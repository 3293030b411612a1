#pragma once
#include <cstdint>
#include <vector>

#include "../native/api.h"

// Up to 65,535; every kernel starts from the same number.
uint32_t random_number();

// Appends the logits and tokens of models of random weights; false if the decoder refuses them, or computes NaN.
bool decoded(const Kernel* kernel, std::vector<float>& values);
