#include "decoder_api.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "decoder.h"
#include "dispatch.h"
#include "memory.h"

namespace {

constexpr int64_t ALIGNMENT = 64;

int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Hands out parts of a memory, or without one counts what it would hand out.
class Arena {
public:
    explicit Arena(unsigned char* memory) : memory_(memory) {}

    template <class T>
    T* take(int64_t count) {
        const int64_t at = bytes_;
        bytes_ += aligned(count * static_cast<int64_t>(sizeof(T)));
        return memory_ ? reinterpret_cast<T*>(memory_ + at) : nullptr;
    }

    int64_t bytes() const { return bytes_; }

private:
    unsigned char* memory_;
    int64_t bytes_ = 0;
};

struct PoolDeleter {
    void operator()(Pool* pool) const { pool_free(pool); }
};

float from_half(uint16_t half) {  // normal and positive, as scales are
    const uint32_t bits = (uint32_t(half & 0x7fff) << 13) + (uint32_t(127 - 15) << 23);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct Failure {
    DecoderProblem why;
    int64_t which = 0;
};

}  // namespace

struct Decoder {
    const Decoding* decoding = nullptr;
    Memory memory;
    int64_t bytes = 0;
    Model model{};
    std::vector<Layer> layers;
    std::vector<Matrix> matrices;
    std::vector<Mlp> experts;
    double rope_theta = 0;
    std::unique_ptr<Pool, PoolDeleter> pool;
    std::mutex busy;
};

struct Text {
    Decoder* decoder;
    Memory memory;
    Session session{};
    std::vector<float> rotary;
    Sampler sampler;
    std::vector<float> logits;
};

namespace {

// --- a model from what a file has

class Builder {
public:
    Builder(Decoder& decoder, const StoredModel& stored) : d(decoder), stored(stored), sizes(stored.sizes) {}

    void build() {
        Arena counting(nullptr);
        place(counting);
        d.memory = Memory(static_cast<size_t>(counting.bytes()));
        if (!d.memory.data()) throw Failure{DECODER_NO_MEMORY};
        d.bytes = counting.bytes();
        Arena arena(d.memory.data());
        place(arena);
        repack_all();
        assemble();
    }

private:
    void place(Arena& arena) {
        codes.clear();
        for (int64_t i = 0; i < stored.matrix_count; ++i) {
            const int64_t bytes = repacked_bytes(stored.matrices[i]);
            if (bytes < 0) throw Failure{DECODER_BAD_SIZES, i};
            codes.push_back(arena.take<uint8_t>(bytes));
        }
        floats.clear();
        for (int64_t i = 0; i < stored.float_count; ++i) floats.push_back(arena.take<float>(stored.floats[i].count));
        for (int64_t i = 0; i < stored.row_count; ++i) place_rows(arena, stored.rows[i], rows[i]);
    }

    void place_rows(Arena& arena, const StoredRows& from, Rows& to) {
        to = {sizes.vocabulary, sizes.width, nullptr, nullptr, nullptr};
        const int64_t blocks = blocks_of(to.rows), columns = (to.columns + 3) / 4;
        float* full = from.full ? arena.take<float>(to.rows * to.columns) : nullptr;
        uint8_t* bytes = from.full ? nullptr : arena.take<uint8_t>(blocks * columns * BLOCK * 4);
        float* scales = from.full ? nullptr : arena.take<float>(blocks * BLOCK);
        to.full = full, to.codes = bytes, to.scales = scales;
        if (full) std::memcpy(full, from.full, sizeof(float) * to.rows * to.columns);
        if (!bytes) return;
        for (int64_t r = 0; r < to.rows; ++r) {
            scales[r] = from_half(from.scales[r]);
            uint8_t* row = bytes + r / BLOCK * columns * BLOCK * 4 + r % BLOCK * 4;
            for (int64_t c = 0; c < to.columns; ++c)
                row[c / 4 * BLOCK * 4 + c % 4] = static_cast<uint8_t>(from.codes[r * to.columns + c] + 128);
        }
    }

    void repack_all() {
        d.matrices.resize(stored.matrix_count);
        const int64_t threads = pool_threads(d.pool.get()), count = stored.matrix_count;
        std::atomic<int64_t> next{0}, bad{-1};
        const auto work = [&] {  // matrices differ in size: who is free takes the next one
            for (int64_t i; (i = next.fetch_add(1)) < count;)
                if (!repack(stored.matrices[i], codes[i], 1, d.matrices[i])) bad = i;
        };
        pool_run(d.pool.get(), std::max<int64_t>(2, threads),
                 [](const void* w, int64_t) { (*static_cast<decltype(work)*>(w))(); }, &work);
        if (bad >= 0) throw Failure{DECODER_BAD_MATRIX, bad};
    }

    const Matrix* matrix(int64_t out, int64_t in) {
        if (matrices_taken == stored.matrix_count) throw Failure{DECODER_BAD_SIZES};
        const Matrix& m = d.matrices[matrices_taken++];
        if (m.rows != out || m.columns != in) throw Failure{DECODER_BAD_SIZES, matrices_taken - 1};
        return &m;
    }

    const float* vector(int64_t count) {
        if (floats_taken == stored.float_count || stored.floats[floats_taken].count != count)
            throw Failure{DECODER_BAD_SIZES};
        float* values = floats[floats_taken];
        std::memcpy(values, stored.floats[floats_taken++].values, sizeof(float) * count);
        return values;
    }

    Mlp mlp(int64_t hidden) {
        if (!hidden) return {};
        Mlp result{hidden, nullptr, nullptr, nullptr, nullptr};
        result.gate = matrix(hidden, sizes.width);
        result.up = matrix(hidden, sizes.width);
        result.down = matrix(sizes.width, hidden);
        return result;
    }

    Mixture mixture(const LayerSizes& layer) {
        const int64_t first = static_cast<int64_t>(d.experts.size());
        for (int64_t e = 0; e < layer.experts; ++e) d.experts.push_back(mlp(layer.expert_hidden));
        const float* router = vector(layer.experts * sizes.width);
        const float* bias = vector(layer.experts);
        const float* norm = sizes.sub_norm ? vector(layer.experts * layer.expert_hidden) : nullptr;
        for (int64_t e = 0; norm && e < layer.experts; ++e) d.experts[first + e].norm = norm + e * layer.expert_hidden;
        return {layer.experts, layer.chosen, router, bias, &d.experts[first], layer.softmax != 0,
                layer.normalize != 0, static_cast<float>(layer.scale), static_cast<float>(layer.temperature)};
    }

    Layer layer(const LayerSizes& given) {
        const int64_t heads = sizes.heads * sizes.head_width, pairs = sizes.key_value_heads * sizes.head_width;
        Layer l{};
        l.query = matrix(heads, sizes.width);
        l.key = matrix(pairs, sizes.width);
        l.value = matrix(pairs, sizes.width);
        l.output = matrix(sizes.width, heads);
        l.attention_norm = vector(sizes.width);
        if (sizes.bias) l.query_bias = vector(heads), l.key_bias = vector(pairs), l.value_bias = vector(pairs);
        if (sizes.qk_norm) l.query_norm = vector(sizes.head_width), l.key_norm = vector(sizes.head_width);
        if (sizes.sub_norm) l.output_norm = vector(heads);
        l.mlp_norm = vector(sizes.width);
        l.mlp = mlp(given.hidden);
        if (given.hidden && sizes.sub_norm) l.mlp.norm = vector(given.hidden);
        if (given.experts) l.mixture = mixture(given);
        return l;
    }

    void assemble() {
        int64_t experts = 0;
        for (int64_t i = 0; i < sizes.layers; ++i) experts += stored.layers[i].experts;
        d.experts.reserve(experts);  // layers point to them
        for (int64_t i = 0; i < sizes.layers; ++i) d.layers.push_back(layer(stored.layers[i]));
        d.model = {sizes.width, sizes.heads, sizes.key_value_heads, sizes.head_width, sizes.rotary_width,
                   sizes.vocabulary, sizes.positions, sizes.layers, sizes.matrix_planes, sizes.expert_planes,
                   sizes.head_planes, static_cast<float>(sizes.epsilon), d.layers.data(), rows[0],
                   sizes.tied ? rows[0] : rows[1], vector(sizes.width)};
        if (matrices_taken != stored.matrix_count || floats_taken != stored.float_count) throw Failure{DECODER_BAD_SIZES};
    }

    Decoder& d;
    const StoredModel& stored;
    const ModelSizes& sizes;
    std::vector<uint8_t*> codes;
    std::vector<float*> floats;
    Rows rows[2] = {};
    int64_t matrices_taken = 0, floats_taken = 0;
};

// --- a text

// cos and sin of every position's angles; the frequencies are rounded to fp32, as in training.
std::vector<float> rotary_table(int64_t positions, int64_t width, double theta) {
    const int64_t pairs = width / 2;
    std::vector<float> table(positions * 2 * pairs);
    for (int64_t i = 0; i < pairs; ++i) {
        const float exponent = static_cast<float>(2 * i) / static_cast<float>(width);
        const float frequency = static_cast<float>(std::pow(theta, -static_cast<double>(exponent)));
        for (int64_t p = 0; p < positions; ++p) {
            const float angle = static_cast<float>(p) * frequency;
            table[p * 2 * pairs + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
            table[p * 2 * pairs + pairs + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
        }
    }
    return table;
}

Vectors vectors_in(Arena& arena, int64_t count, int64_t columns) {  // of two planes
    const int64_t blocks = blocks_of(columns);
    int8_t* values = arena.take<int8_t>(count * 2 * blocks * BLOCK);
    int32_t* prefix = arena.take<int32_t>(count * (quads_of(blocks) + 1));
    return {values, prefix, arena.take<float>(count), count, 2, blocks};
}

// Every size is the largest that a layer needs for a chunk.
void place_buffers(Buffers& b, const Model& m, int64_t capacity, Arena& arena) {
    const int64_t heads = m.heads * m.head_width, width = padded(m.width);
    int64_t hidden = 0, experts = 0, chosen = 0;
    for (int64_t i = 0; i < m.layers; ++i) {
        const Layer& layer = m.layer[i];
        const Mixture& x = layer.mixture;
        hidden = std::max(hidden, padded(layer.mlp.hidden) + (x.experts ? x.chosen * padded(x.expert[0].hidden) : 0));
        experts = std::max(experts, x.experts);
        chosen = std::max(chosen, x.experts ? x.chosen : 0);
    }
    const int64_t results = CHUNK * (chosen + 1);
    b.hidden = arena.take<float>(CHUNK * width);
    b.normed = arena.take<float>(CHUNK * width);
    b.qkv = arena.take<float>(CHUNK * (heads + 2 * m.key_value_heads * m.head_width));
    b.attended = arena.take<float>(CHUNK * padded(heads));
    b.scores = arena.take<float>(m.key_value_heads * capacity);
    b.router = arena.take<float>(CHUNK * padded(experts));
    b.gate_up = arena.take<float>(CHUNK * 2 * hidden);
    b.inner = arena.take<float>(CHUNK * hidden);
    b.result = arena.take<float>(results * width);
    b.choice = arena.take<float>(results);
    b.expert = arena.take<int32_t>(results);
    b.place = arena.take<int32_t>(results);
    b.weight = arena.take<float>(results);
    b.position = arena.take<int32_t>(results);
    b.vectors[INPUT] = vectors_in(arena, CHUNK, std::max(m.width, heads));
    b.vectors[EXPERTS_INPUT] = vectors_in(arena, CHUNK, m.width);
    b.vectors[GATHERED] = vectors_in(arena, CHUNK * chosen, m.width);
    b.vectors[INNER] = {arena.take<int8_t>(2 * CHUNK * hidden), arena.take<int32_t>(CHUNK * hidden / 64 + 2 * results),
                        arena.take<float>(results), results, 2, 0};
    b.jobs = arena.take<Job>(experts + 1);
}

void place(Session& s, Arena& arena) {
    const Model& m = *s.model;
    s.keys = arena.take<float>(m.layers * m.key_value_heads * s.capacity * m.head_width);
    s.values = arena.take<float>(m.layers * m.key_value_heads * s.capacity * padded(m.head_width));
    place_buffers(s.buffers, m, s.capacity, arena);
}

std::unique_ptr<Text> new_text(Decoder& decoder, int64_t capacity) {
    auto text = std::make_unique<Text>();
    text->decoder = &decoder;
    Session& s = text->session;
    s.model = &decoder.model;
    s.pool = decoder.pool.get();
    s.capacity = padded(capacity);
    text->rotary = rotary_table(s.capacity, decoder.model.rotary_width, decoder.rope_theta);
    s.rotary = text->rotary.data();
    Arena counting(nullptr);
    place(s, counting);
    text->memory = Memory(static_cast<size_t>(counting.bytes()));
    if (!text->memory.data()) return nullptr;
    Arena arena(text->memory.data());
    place(s, arena);
    text->logits.resize(padded(decoder.model.vocabulary));
    return text;
}

int32_t why_not(const Text& text, const int32_t* tokens, int64_t n) {
    if (n > text.session.capacity - text.session.length) return DECODER_FULL;
    const int64_t vocabulary = text.decoder->model.vocabulary;
    const bool known = std::all_of(tokens, tokens + n, [&](int32_t token) { return token >= 0 && token < vocabulary; });
    return known ? DECODER_GOOD : DECODER_BAD_TOKEN;
}

// Reads tokens in chunks. `logits` gets those of all of them, or of the last one.
void read(Text& text, const int32_t* tokens, int64_t n, float* logits, bool all) {
    const std::lock_guard<std::mutex> lock(text.decoder->busy);
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t count = std::min(CHUNK, n - at);
        float* to = all ? logits + at * text.decoder->model.vocabulary : at + count == n ? logits : nullptr;
        text.decoder->decoding->read(text.session, tokens + at, count, to, all);
    }
}

}  // namespace

Decoder* penstock_decoder_new(const Kernel* kernel, const StoredModel* stored, int64_t threads, int32_t* why,
                              int64_t* which) try {
    auto decoder = std::make_unique<Decoder>();
    decoder->decoding = kernel->decoding;
    decoder->pool.reset(pool_new(static_cast<int>(threads)));
    Builder(*decoder, *stored).build();
    decoder->rope_theta = stored->sizes.rope_theta;
    *why = DECODER_GOOD;
    return decoder.release();
} catch (const Failure& failure) {
    *why = failure.why;
    *which = failure.which;
    return nullptr;
} catch (...) {
    *why = DECODER_NO_MEMORY;
    return nullptr;
}

void penstock_decoder_free(Decoder* decoder) { delete decoder; }

int64_t penstock_decoder_bytes(const Decoder* decoder) { return decoder->bytes; }

Text* penstock_text_new(Decoder* decoder, int64_t capacity) try {
    return new_text(*decoder, capacity).release();
} catch (...) {
    return nullptr;
}

void penstock_text_free(Text* text) { delete text; }

void penstock_text_cut(Text* text, int64_t length) {
    text->session.length = std::max<int64_t>(0, std::min(length, text->session.length));
}

void penstock_text_seed(Text* text, uint64_t seed) { text->sampler.seed(seed); }

int32_t penstock_text_read(Text* text, const int32_t* tokens, int64_t n, float* logits) {
    if (const int32_t why = why_not(*text, tokens, n)) return why;
    read(*text, tokens, n, logits, logits != nullptr);
    return DECODER_GOOD;
}

int32_t penstock_text_next(Text* text, const int32_t* tokens, int64_t n, const Sampling* sampling, int32_t* next) try {
    if (n < 1) return DECODER_BAD_SIZES;
    if (const int32_t why = why_not(*text, tokens, n)) return why;
    read(*text, tokens, n, text->logits.data(), false);
    if (!largest_is_finite(text->logits.data(), text->decoder->model.vocabulary)) {
        text->session.length -= n;
        return DECODER_NOT_FINITE;
    }
    *next = text->sampler.next(*text->decoder->decoding, text->logits.data(), text->decoder->model.vocabulary, *sampling);
    return DECODER_GOOD;
} catch (...) {
    return DECODER_NO_MEMORY;
}
