// A GPT-2 / Llama / Qwen shaped Transformer for the tokens of a decoding step, in one pass with one team of threads.
//
// The plain reference is trine/model/transformer.py; a test holds the two together. Differences: the residual stream and the
// attention weights stay in fp32 (the reference rounds them to the compute dtype), and no sum depends on the batch.
#include <type_traits>
#include <vector>
#include "attention.h"
#include "products.h"
#include "sample.h"
#include "team.h"

struct Layer {
    Matrix qkv, out, up, down;
    const float *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias, *q_norm, *k_norm;  // null where absent
    void *keys, *values;
};

struct Model {
    int64_t layers, width, heads, kv_heads, head_dim, mlp_width, vocabulary;
    int64_t layer_norm, gated, weight_bytes, threads, max_positions, logit_rows;
    double epsilon;
    const float *embedding, *positions, *cosines, *sines, *norm, *norm_bias;
    const Layer* layer;
    Matrix head;
    float *residual, *qkv, *logits;  // workspace, rows padded to whole panels
    void *input, *mixed, *hidden;
};

// Consecutive new tokens of one row.
struct Chunk {
    int64_t first, count, start;  // first of the batch's tokens, how many, position of the first
    const int32_t* pages;
};

struct Batch {
    int64_t tokens, chunks, selected;
    const int64_t* ids;
    const Chunk* chunk;
    const int64_t* select;   // tokens whose logits are wanted
    const int64_t* targets;  // null, or of each selected token the one that follows, whose log-probabilities are wanted
    float temperature;       // of the log-probabilities
    float* log_probs;        // [selected]
};

struct Rows {
    int64_t count;
    int64_t *ids, *positions, *counters;
    const int64_t *seeds, *ends, *end_offsets;
    const float* temperatures;
    const int32_t* const* pages;
};

struct Unit {
    const Chunk* chunk;
    int64_t head, first, count;
};

static int64_t padded(int64_t size) { return (size + PANEL - 1) / PANEL * PANEL; }

template <class Out>
static void normalize(const Model& m, const float* x, const float* weight, const float* bias, Out* out) {
    floats total = {}, squares = {};
    for (int64_t i = 0; i < m.width; i += LANES) total += load(x + i);
    float mean = m.layer_norm ? sum(total) / m.width : 0.0f;
    for (int64_t i = 0; i < m.width; i += LANES) {
        floats centred = load(x + i) - mean;
        squares += centred * centred;
    }
    float inverse = 1.0f / std::sqrt(sum(squares) / m.width + (float)m.epsilon);
    for (int64_t i = 0; i < m.width; i += LANES) {
        floats value = (load(x + i) - mean) * inverse * load(weight + i);
        store(out + i, bias ? value + load(bias + i) : value);
    }
}

static void normalize_head(float* head, const float* weight, int64_t size, float epsilon) {
    floats squares = {};
    for (int64_t i = 0; i < size; i += LANES) squares += load(head + i) * load(head + i);
    float inverse = 1.0f / std::sqrt(sum(squares) / size + epsilon);
    for (int64_t i = 0; i < size; i += LANES) store(head + i, load(head + i) * inverse * load(weight + i));
}

static void rotate(float* head, const float* cosine, const float* sine, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

// One head of one new token: QK-norm, rotation, the query's scale; keys and values go to their page.
template <class C>
static void store_head(const Model& m, const Layer& layer, const Chunk& chunk, int64_t offset, int64_t head, float* vector) {
    int64_t d = m.head_dim, position = chunk.start + offset;
    bool query = head < m.heads, key = !query && head < m.heads + m.kv_heads;
    const float* scale = query ? layer.q_norm : key ? layer.k_norm : nullptr;
    if (scale) normalize_head(vector, scale, d, (float)m.epsilon);
    if ((query || key) && m.cosines)
        rotate(vector, m.cosines + position * (d / 2), m.sines + position * (d / 2), d / 2);
    if (query) {
        float factor = 1.0f / std::sqrt((float)d);
        for (int64_t i = 0; i < d; i++) vector[i] *= factor;
        return;
    }
    int64_t kv_head = (head - m.heads) % m.kv_heads, slot = position % PAGE;
    int64_t base = (chunk.pages[position / PAGE] * m.kv_heads + kv_head) * d * PAGE;
    for (int64_t i = 0; i < d; i += LANES) {
        C rounded[LANES];
        store(key ? rounded : (C*)layer.values + base + slot * d + i, load(vector + i));
        if (key)
            for (int lane = 0; lane < LANES; lane++) ((C*)layer.keys)[base + (i + lane) * PAGE + slot] = rounded[lane];
    }
}

// The queries of a unit: its tokens x the query heads that share its key head, four at a time.
template <class C, class Out>
static void attend_unit(const Model& m, const Layer& layer, const Unit& unit, std::vector<float>& scores, Out* mixed) {
    int64_t group = m.heads / m.kv_heads, stride = (m.max_positions + PAGE - 1) / PAGE * PAGE;
    int64_t in_row = padded((m.heads + 2 * m.kv_heads) * m.head_dim), out_row = padded(m.heads * m.head_dim);
    Cache<C> cache{(const C*)layer.keys, (const C*)layer.values, unit.chunk->pages, m.kv_heads, m.head_dim, unit.head};
    const float* queries[MAX_QUERIES];
    int64_t lengths[MAX_QUERIES];
    Out* out[MAX_QUERIES];
    scores.resize(MAX_QUERIES * stride);
    for (int64_t index = 0; index < unit.count * group; index += MAX_QUERIES) {
        int64_t many = std::min<int64_t>(MAX_QUERIES, unit.count * group - index);
        for (int64_t r = 0; r < many; r++) {
            int64_t offset = unit.first + (index + r) / group, head = unit.head * group + (index + r) % group;
            queries[r] = m.qkv + (unit.chunk->first + offset) * in_row + head * m.head_dim;
            out[r] = mixed + (unit.chunk->first + offset) * out_row + head * m.head_dim;
            lengths[r] = unit.chunk->start + offset + 1;
        }
        switch (many) {
            case 4: attend<4>(cache, queries, lengths, scores.data(), stride, out); break;
            case 3: attend<3>(cache, queries, lengths, scores.data(), stride, out); break;
            case 2: attend<2>(cache, queries, lengths, scores.data(), stride, out); break;
            case 1: attend<1>(cache, queries, lengths, scores.data(), stride, out); break;
        }
    }
}

static std::vector<Unit> units_of(const Model& m, const Batch& batch) {
    std::vector<Unit> units;
    for (int64_t r = 0; r < batch.chunks; r++)
        for (int64_t first = 0; first < batch.chunk[r].count; first += PAGE)
            for (int64_t head = 0; head < m.kv_heads; head++)
                units.push_back({batch.chunk + r, head, first, std::min<int64_t>(PAGE, batch.chunk[r].count - first)});
    return units;
}

static void embed(Member& member, const Model& m, const Batch& batch) {
    member.each(batch.chunks, [&](int64_t r) {
        for (int64_t t = 0; t < batch.chunk[r].count; t++) {
            int64_t token = batch.chunk[r].first + t;
            float* x = m.residual + token * padded(m.width);
            const float* word = m.embedding + batch.ids[token] * m.width;
            const float* position = m.positions ? m.positions + (batch.chunk[r].start + t) * m.width : nullptr;
            for (int64_t i = 0; i < m.width; i++) x[i] = word[i] + (position ? position[i] : 0.0f);
        }
    });
    member.barrier();
}

template <class W>
static void normalize_all(Member& member, const Model& m, int64_t tokens, const int64_t* select, const float* weight,
                          const float* bias) {
    member.each(tokens, [&](int64_t t) {
        normalize(m, m.residual + (select ? select[t] : t) * padded(m.width), weight, bias,
                  (Input<W>*)m.input + t * padded(m.width));
    });
    member.barrier();
}

template <class W, class C>
static void attention_half(Member& member, const Model& m, const Layer& layer, const Batch& batch,
                           const std::vector<Unit>& units, std::vector<float>& scores) {
    int64_t heads = m.heads + 2 * m.kv_heads, row = padded(heads * m.head_dim), width = padded(m.width);
    normalize_all<W>(member, m, batch.tokens, nullptr, layer.attention_norm, layer.attention_norm_bias);
    product<W>(member, layer.qkv, (const Input<W>*)m.input, width, batch.tokens, [&](int64_t t, int64_t panel, floats* sums) {
        for (int v = 0; v < VECTORS; v++) store(m.qkv + t * row + panel * PANEL + v * LANES, sums[v]);
    });
    member.barrier();
    for (int64_t r = 0; r < batch.chunks; r++) {
        const Chunk& chunk = batch.chunk[r];
        member.each(chunk.count * heads, [&](int64_t i) {
            store_head<C>(m, layer, chunk, i / heads, i % heads,
                          m.qkv + (chunk.first + i / heads) * row + i % heads * m.head_dim);
        });
    }
    member.barrier();
    member.take(units.size(), [&](int64_t u) { attend_unit<C>(m, layer, units[u], scores, (Input<W>*)m.mixed); });
    member.barrier();
    product<W>(member, layer.out, (const Input<W>*)m.mixed, padded(m.heads * m.head_dim), batch.tokens,
               [&](int64_t t, int64_t panel, floats* sums) {
                   float* x = m.residual + t * width + panel * PANEL;
                   for (int v = 0; v < VECTORS; v++) store(x + v * LANES, load(x + v * LANES) + sums[v]);
               });
    member.barrier();
}

// A gated layer's panels hold as many gates as the values they open, so that the product is finished in registers.
template <class W> static void mlp_half(Member& member, const Model& m, const Layer& layer, const Batch& batch) {
    int64_t row = padded(m.mlp_width), width = padded(m.width);
    Input<W>* hidden = (Input<W>*)m.hidden;
    normalize_all<W>(member, m, batch.tokens, nullptr, layer.mlp_norm, layer.mlp_norm_bias);
    product<W>(member, layer.up, (const Input<W>*)m.input, width, batch.tokens, [&](int64_t t, int64_t panel, floats* sums) {
        if (m.gated) {
            Input<W>* target = hidden + t * row + panel * (PANEL / 2);
            for (int v = 0; v < VECTORS / 2; v++) store(target + v * LANES, silu(sums[v]) * sums[v + VECTORS / 2]);
        } else {
            for (int v = 0; v < VECTORS; v++) store(hidden + t * row + panel * PANEL + v * LANES, gelu(sums[v]));
        }
    });
    member.barrier();
    product<W>(member, layer.down, hidden, row, batch.tokens, [&](int64_t t, int64_t panel, floats* sums) {
        float* x = m.residual + t * width + panel * PANEL;
        for (int v = 0; v < VECTORS; v++) store(x + v * LANES, load(x + v * LANES) + sums[v]);
    });
    member.barrier();
}

template <class W> static void read_logits(Member& member, const Model& m, const int64_t* select, int64_t count) {
    normalize_all<W>(member, m, count, select, m.norm, m.norm_bias);
    product<W>(member, m.head, (const Input<W>*)m.input, padded(m.width), count, [&](int64_t t, int64_t panel, floats* sums) {
        float* target = m.logits + t * padded(m.vocabulary) + panel * PANEL;
        for (int v = 0; v < VECTORS; v++) store(target + v * LANES, sums[v]);
    });
    member.barrier();
}

static void write_log_probs(Member& member, const Model& m, const Batch& batch, int64_t first, int64_t count) {
    member.each(count, [&](int64_t i) {
        batch.log_probs[first + i] = log_probability(m.logits + i * padded(m.vocabulary), m.vocabulary,
                                                     batch.temperature, batch.targets[first + i]);
    });
    member.barrier();
}

template <class W, class C> static void forward(const Model& m, const Batch& batch) {
    std::vector<Unit> units = units_of(m, batch);
    in_parallel(m.threads, [&](Member& member) {
        std::vector<float> scores;
        embed(member, m, batch);
        for (int64_t l = 0; l < m.layers; l++) {
            attention_half<W, C>(member, m, m.layer[l], batch, units, scores);
            mlp_half<W>(member, m, m.layer[l], batch);
        }
        for (int64_t first = 0; first < batch.selected; first += m.logit_rows) {
            int64_t count = std::min(m.logit_rows, batch.selected - first);
            read_logits<W>(member, m, batch.select + first, count);
            if (batch.targets) write_log_probs(member, m, batch, first, count);
        }
    });
}

extern "C" {

const char* trine_instructions() { return INSTRUCTIONS; }

// Outputs in a panel of weights.
int64_t trine_panel() { return PANEL; }

// Whether bf16 weights meet bf16 inputs, or floats.
int64_t trine_has_bf16_product() { return std::is_same<Input<bf16>, bf16>::value; }

// Logits of the selected tokens into m->logits, [selected][padded vocabulary]; with targets the targets' log-probabilities,
// and logits of the last m->logit_rows rows at most. int8 weights keep a bf16 cache.
void trine_forward(const Model* m, const Batch* batch) {
    switch (m->weight_bytes) {
        case 4: forward<float, float>(*m, *batch); break;
        case 2: forward<bf16, bf16>(*m, *batch); break;
        case 1: forward<int8_t, bf16>(*m, *batch); break;
    }
}

// Samples from row indices[i] of m->logits with (seeds, counters, temperatures)[i].
void trine_sample(const Model* m, int64_t count, const int64_t* indices, const int64_t* seeds, const int64_t* counters,
                  const float* temperatures, int64_t* ids, float* log_probs) {
    auto sample_row = [&](int64_t i) {
        const float* logits = m->logits + indices[i] * padded(m->vocabulary);
        SampledToken token = sample_token(logits, m->vocabulary, temperatures[i], uniform(seeds[i], counters[i]));
        ids[i] = token.id;
        log_probs[i] = token.log_prob;
    };
    in_parallel(count > 1 ? m->threads : 1, [&](Member& member) { member.take(count, sample_row); });
}

// Up to `steps` tokens for every row, into ids and log_probs [steps][rows]; stops after the step in which a row sampled one
// of its end ids, or none could be sampled. Returns the steps made, by which ids, positions and counters have advanced.
int64_t trine_decode(const Model* m, Rows* rows, int64_t steps, int64_t* ids, float* log_probs) {
    int64_t n = rows->count;
    std::vector<Chunk> chunks(n);
    std::vector<int64_t> indices(n);
    for (int64_t i = 0; i < n; i++) indices[i] = i;
    for (int64_t step = 0; step < steps; step++) {
        for (int64_t i = 0; i < n; i++) chunks[i] = {i, 1, rows->positions[i], rows->pages[i]};
        Batch batch{n, n, n, rows->ids, chunks.data(), indices.data(), nullptr, 1.0f, nullptr};
        trine_forward(m, &batch);
        trine_sample(m, n, indices.data(), rows->seeds, rows->counters, rows->temperatures, ids + step * n,
                     log_probs + step * n);
        bool ended = false;
        for (int64_t i = 0; i < n; i++) {
            int64_t id = ids[step * n + i];
            rows->ids[i] = id;
            rows->positions[i]++;
            rows->counters[i]++;
            const int64_t *from = rows->ends + rows->end_offsets[i], *to = rows->ends + rows->end_offsets[i + 1];
            ended |= id < 0 || std::find(from, to, id) != to;
        }
        if (ended) return step + 1;
    }
    return steps;
}
}
