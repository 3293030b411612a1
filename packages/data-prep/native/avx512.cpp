#define WIDTH 64
#include "permute.inc"

const Kernel avx512_permute = {"avx512", permute<Affine, uint32_t>, permute<Affine, uint64_t>, permute<Legacy, uint64_t>,
                         sha1_block_portable};
