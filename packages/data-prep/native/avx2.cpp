#define WIDTH 32
#include "permute.inc"

const Kernel avx2_permute = {"avx2", permute<Affine, uint32_t>, permute<Affine, uint64_t>, permute<Legacy, uint64_t>,
                         sha1_block_portable};
