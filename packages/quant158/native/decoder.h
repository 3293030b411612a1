// The model that the decoder runs, and a text's state: plain structs. decoder_api.cpp fills and owns them, decode.inc
// computes with them.
#pragma once
#include "matrix.h"
#include "pool.h"

constexpr int64_t CHUNK = 32;  // positions of a prompt that are read at once; a generated token is a chunk of one

static constexpr int64_t padded(int64_t numbers) { return blocks_of(numbers) * BLOCK; }

// SwiGLU: down(silu(gate x) * (up x)).
struct Mlp {
    int64_t hidden;
    const Matrix *gate, *up, *down;
    const float* norm;  // [hidden], of what down reads; null: none
};

struct Mixture {
    int64_t experts;  // 0: none
    int64_t chosen;   // of a token
    const float* router;  // [experts, width]
    const float* bias;    // [experts]; moves the choice and not the weights
    const Mlp* expert;    // [experts]
    bool softmax;         // the score of a logit; else sigmoid
    bool normalize;
    float scale, temperature;
};

struct Layer {
    const float* attention_norm;
    const Matrix *query, *key, *value, *output;
    const float *query_bias, *key_bias, *value_bias;  // null: none
    const float *query_norm, *key_norm;               // [head_width]; null: none
    const float* output_norm;  // [heads * head_width], of what the output projection reads; null: none
    const float* mlp_norm;
    Mlp mlp;  // dense, or the shared expert of a mixture; hidden 0: neither
    Mixture mixture;
};

// The embedding or the head, [rows, columns]: fp32, or integers with a scale a row. Integers lie in blocks of 16 rows
// by 4 columns, a byte each, which is 128 more than the value.
struct Rows {
    int64_t rows, columns;
    const float* full;     // null: integers
    const uint8_t* codes;  // [blocks of rows, blocks of columns, 16, 4]
    const float* scales;   // [blocks of rows * 16]
};

struct Model {
    int64_t width, heads, key_value_heads, head_width, rotary_width, vocabulary, positions, layers;
    int64_t matrix_planes, expert_planes, head_planes;  // of activations, see Vectors
    float epsilon;
    const Layer* layer;
    Rows embedding, head;
    const float* norm;
};

// What one MLP computes of a chunk: of the vectors `input`, which are those from `place` on in the buffers.
struct Job {
    const Mlp* mlp;
    int64_t place;
    bool weighted;      // by the router
    int64_t hidden_at;  // of its first vector in Buffers::inner; twice that in gate_up
    Vectors input, inner;
};

// What quantized vectors are for. Those of INPUT, EXPERTS_INPUT and GATHERED follow one another closely, whatever
// their size.
enum Use { INPUT, EXPERTS_INPUT, GATHERED, INNER };

// Memory that threads write while a chunk is read. A position has `results` vectors that an MLP adds up: of its
// experts, and of the dense or shared one.
struct Buffers {
    int64_t results;
    float *hidden, *normed;   // [CHUNK, padded width]
    float *qkv, *attended;    // [CHUNK, heads and key/value heads], [CHUNK, heads]
    float* scores;            // [key_value_heads, capacity]
    float* router;            // [CHUNK, padded experts]
    float* gate_up;           // [CHUNK * results, 2, padded hidden], tightly by the hidden width of each
    float* inner;             // [CHUNK * results, padded hidden]
    float* result;            // [CHUNK * results, padded width]
    float* choice;            // [CHUNK * results]: the weights of the chosen experts
    int32_t *expert, *place;  // [CHUNK * results]: the chosen experts, and where each one's result is
    float* weight;            // [CHUNK * results], by place
    int32_t* position;        // [CHUNK * results], by place
    Vectors vectors[4];       // by Use
    Job* jobs;                // [experts + 1]
};

// The keys and values of a text, and what its next token needs.
//
// Keys lie in blocks of 16 positions, [head_width, 16] each, so that 16 scores are one sum of vectors; values lie
// position by position, padded to 16.
struct Session {
    const Model* model;
    Pool* pool;
    int64_t capacity;  // a multiple of 16
    int64_t length;
    float* keys;       // [layers, key_value_heads, capacity / 16, head_width, 16]
    float* values;     // [layers, key_value_heads, capacity, padded head_width]
    const float* rotary;  // [capacity, 2, rotary_width / 2]: cosines, then sines
    Buffers buffers;
};

// What the file of one instruction set offers.
struct Decoding {
    // Reads up to CHUNK tokens behind those of the session. `logits`, where not null, gets those of the last of them,
    // [vocabulary], or of all, [n, vocabulary].
    void (*read)(Session&, const int32_t* tokens, int64_t n, float* logits, bool all);

    int32_t (*likeliest)(const float* logits, int64_t n);  // the first of equals

    // Turns logits into e^((logit - the largest) / temperature).
    void (*weights)(float* logits, int64_t n, float temperature);
};
