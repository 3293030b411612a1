#define WIDTH 16
#include "permute.inc"

const Kernel portable_permute = {"portable", permute<Affine, uint32_t>, permute<Affine, uint64_t>, permute<Legacy, uint64_t>,
                         sha1_block_portable};
