// The C interface of the decoder, which decoder.py calls through ctypes and whose structs it mirrors. Nothing here
// throws. Pointers are read only during the call.
#pragma once
#include "api.h"
#include "repack.h"
#include "sampling.h"

struct ModelSizes {
    int64_t width, heads, key_value_heads, head_width, rotary_width, vocabulary, positions, layers;
    int64_t matrix_planes, expert_planes, head_planes;
    int64_t bias, qk_norm, sub_norm, tied;  // 0 or 1
    double epsilon, rope_theta;
};

struct LayerSizes {
    int64_t hidden;  // of the dense MLP or the shared expert; 0: neither
    int64_t experts, chosen, expert_hidden;  // 0: a dense layer
    int64_t softmax, normalize;  // 0 or 1
    double scale, temperature;
};

// An embedding or head as a file has it: `full`, or `codes` and a scale a row.
struct StoredRows {
    const float* full;
    const int8_t* codes;
    const uint16_t* scales;  // fp16
};

struct FloatArray {
    const float* values;
    int64_t count;
};

// In order. Matrices of each layer: query, key, value, output; gate, up, down if hidden > 0; gate, up, down of each
// expert. Floats of each layer: attention norm; query, key, value bias if bias; query, key norm if qk_norm; output norm
// if sub_norm; MLP norm; if hidden > 0 and sub_norm, the norm before down; if experts > 0: router, selection bias, and
// if sub_norm the norms before down [experts, expert_hidden]. Then the final norm. Rows: embedding, and head unless tied.
struct StoredModel {
    ModelSizes sizes;
    const LayerSizes* layers;
    const StoredMatrix* matrices;
    const FloatArray* floats;
    const StoredRows* rows;
    int64_t matrix_count, float_count, row_count;
};

struct Decoder;
struct Text;

enum DecoderProblem : int32_t {
    DECODER_GOOD = 0,
    DECODER_BAD_SIZES = 1,   // sizes that do not fit one another
    DECODER_NO_MEMORY = 2,   // or no threads
    DECODER_BAD_MATRIX = 3,  // a code above 242, or a scale that is not normal and positive: the matrix `which`
    DECODER_FULL = 4,        // more positions than the text has room for
    DECODER_BAD_TOKEN = 5,   // a token outside the vocabulary
    DECODER_NOT_FINITE = 6,  // logits whose largest is NaN or infinite
};

PENSTOCK_API Decoder* penstock_decoder_new(const Kernel*, const StoredModel*, int64_t threads, int32_t* why,
                                           int64_t* which);
PENSTOCK_API void penstock_decoder_free(Decoder*);
PENSTOCK_API int64_t penstock_decoder_bytes(const Decoder*);

// A text of up to `capacity` positions. Its decoder must outlive it, and computes for one text at a time.
PENSTOCK_API Text* penstock_text_new(Decoder*, int64_t capacity);
PENSTOCK_API void penstock_text_free(Text*);
PENSTOCK_API void penstock_text_cut(Text*, int64_t length);  // forgets what is beyond
PENSTOCK_API void penstock_text_seed(Text*, uint64_t seed);

// Reads n tokens; `logits` gets those of each position if it is not null.
PENSTOCK_API int32_t penstock_text_read(Text*, const int32_t* tokens, int64_t n, float* logits);

// Reads n tokens and draws the next one.
PENSTOCK_API int32_t penstock_text_next(Text*, const int32_t* tokens, int64_t n, const Sampling*, int32_t* next);
