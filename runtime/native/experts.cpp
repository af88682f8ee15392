#include "experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "buffer.h"
#include "decoder/activations.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kCostOfChoice = 64;  // of one logit, as bytes that take as long to read

// Scratch of the calling thread: inputs of the rows of an expert, and its results.
struct Scratch {
  Buffer probabilities, floats, q, s, gate, up, plain, hidden, hidden_q, hidden_s, down;

  void trim() {
    for (Buffer* b : {&probabilities, &floats, &q, &s, &gate, &up, &plain, &hidden, &hidden_q,
                      &hidden_s, &down})
      b->trim();
  }
};

thread_local Scratch scratch;

template <class T>
T* take(Buffer& buffer, size_t entries) {
  return static_cast<T*>(buffer.get(std::max<size_t>(1, entries) * sizeof(T)));
}

void route_row(const float* logits, size_t experts, size_t k, bool normalized, int32_t* chosen,
               float* weights) {
  float* const p = take<float>(scratch.probabilities, experts);
  const float largest = *std::max_element(logits, logits + experts);
  double sum = 0;
  for (size_t e = 0; e < experts; e++) sum += p[e] = std::exp(logits[e] - largest);
  for (size_t e = 0; e < experts; e++) p[e] = static_cast<float>(p[e] / sum);
  constexpr float kTaken = -1;  // below every probability
  double total = 0;
  for (size_t j = 0; j < k; j++) {
    size_t best = 0;
    while (p[best] == kTaken) best++;
    for (size_t e = best + 1; e < experts; e++)
      if (p[e] > p[best]) best = e;
    const float weight = p[best];
    p[best] = kTaken;
    total += weight;
    size_t place = j;  // in ascending order
    for (; place > 0 && chosen[place - 1] > static_cast<int32_t>(best); place--) {
      chosen[place] = chosen[place - 1];
      weights[place] = weights[place - 1];
    }
    chosen[place] = static_cast<int32_t>(best);
    weights[place] = weight;
  }
  if (normalized)
    for (size_t j = 0; j < k; j++) weights[j] = static_cast<float>(weights[j] / total);
}

size_t entries_of_s(ExpertInput input, size_t columns, size_t group_columns) {
  return input == ExpertInput::int8_groups ? divide_up(columns, group_columns) : 1;
}

// The product of one index or of several that share their input.
void multiply(const RankedProduct<float>* products, size_t size, ExpertInput input,
              const ExpertRows& x, size_t count) {
  if (input == ExpertInput::floats)
    multiply_f32(products, size, x.floats, count);
  else if (input == ExpertInput::int8)
    multiply_quantized(products, size, x.q, x.s, count);
  else
    multiply_group_quantized(products, size, x.q, x.s, count);
}

void multiply_each(const RankedProduct<float>* products, size_t size, ExpertInput input,
                   const ExpertRows& x) {
  if (input == ExpertInput::floats)
    multiply_each_f32(products, size, x.floats);
  else if (input == ExpertInput::int8)
    multiply_each_quantized(products, size, x.q, x.s);
  else
    multiply_each_group_quantized(products, size, x.q, x.s);
}

// A matrix and the (count, rows) that its product with all inputs writes.
struct Product {
  const ExpertMatrix* matrix;
  float* y;
};

// Multiplies the same inputs by several matrices: those that share tables in one call.
void multiply_all(std::vector<Product> products, ExpertInput input, const ExpertRows& x,
                  size_t count) {
  std::vector<RankedProduct<float>> together;
  while (!products.empty()) {
    const ExpertMatrix& first = *products[0].matrix;
    if (!first.index) {
      multiply_dense(first.dense, x.floats, count, products[0].y);
      products.erase(products.begin());
      continue;
    }
    together.clear();
    const auto shares = [&](const Product& p) {
      return p.matrix->index && p.matrix->index->shares_input(*first.index);
    };
    for (const Product& p : products)
      if (shares(p)) together.push_back({p.matrix->index, p.y});
    multiply(together.data(), together.size(), input, x, count);
    products.erase(std::remove_if(products.begin(), products.end(), shares), products.end());
  }
}

class ExpertRun {
 public:
  ExpertRun(const ExpertLayer& layer, const ExpertRows& x) : layer_(layer), x_(x) {
    groups_ = entries_of_s(layer.input, layer.hidden, layer.group_columns);
    down_groups_ = entries_of_s(layer.down_input, layer.width, layer.down_group_columns);
  }

  // One row and all of its experts: their products share the input, and so a parallel region.
  void run_row(size_t row, const int32_t* chosen, const float* weights, size_t k, float* y) const {
    const size_t width = layer_.width, hidden = layer_.hidden;
    float* const gate = take<float>(scratch.gate, k * width);
    float* const up = take<float>(scratch.up, k * width);
    std::vector<Product> products;
    for (size_t j = 0; j < k; j++) {
      const Expert& expert = layer_.experts[chosen[j]];
      products.push_back({&expert.gate, gate + j * width});
      products.push_back({&expert.up, up + j * width});
    }
    multiply_all(std::move(products), layer_.input, rows_from(row), 1);
    const ExpertRows h = gated_rows(gate, up, k);
    float* const down = take<float>(scratch.down, k * hidden);
    multiply_downs(h, chosen, k, down);
    for (size_t j = 0; j < k; j++) add(weights[j], down + j * hidden, y + row * hidden);
  }

  // Some rows of one expert. rows, weights: (count).
  void run_expert(const Expert& expert, const size_t* rows, const float* weights, size_t count,
                  float* y) const {
    const size_t width = layer_.width, hidden = layer_.hidden;
    float* const gate = take<float>(scratch.gate, count * width);
    float* const up = take<float>(scratch.up, count * width);
    multiply_all({{&expert.gate, gate}, {&expert.up, up}}, layer_.input, gathered(rows, count),
                 count);
    const ExpertRows h = gated_rows(gate, up, count);
    float* const down = take<float>(scratch.down, count * hidden);
    multiply_all({{&expert.down, down}}, layer_.down_input, h, count);
    parallel_for(count, count * hidden * sizeof(float) * 2, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++) add(weights[i], down + i * hidden, y + rows[i] * hidden);
    });
  }

 private:
  void add(float weight, const float* from, float* y) const {
    for (size_t c = 0; c < layer_.hidden; c++) y[c] += weight * from[c];
  }

  ExpertRows rows_from(size_t row) const {
    const size_t n = layer_.hidden;
    return {x_.floats ? x_.floats + row * n : nullptr, x_.q ? x_.q + row * n : nullptr,
            x_.s ? x_.s + row * groups_ : nullptr};
  }

  template <class T>
  static const T* gathered(Buffer& buffer, const T* from, const size_t* rows, size_t count,
                           size_t n) {
    if (!from) return nullptr;
    T* const to = take<T>(buffer, count * n);
    parallel_for(count, count * n * sizeof(T), [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; i++)
        std::memcpy(to + i * n, from + rows[i] * n, n * sizeof(T));
    });
    return to;
  }

  ExpertRows gathered(const size_t* rows, size_t count) const {
    if (rows[count - 1] - rows[0] == count - 1) return rows_from(rows[0]);  // neighbors
    return {gathered(scratch.floats, x_.floats, rows, count, layer_.hidden),
            gathered(scratch.q, x_.q, rows, count, layer_.hidden),
            gathered(scratch.s, x_.s, rows, count, groups_)};
  }

  // The inputs of down: activation(gate) * up, in the basis and the forms that its matrices take.
  ExpertRows gated_rows(const float* gate, const float* up, size_t count) const {
    const size_t width = layer_.width;
    const bool quantizes = layer_.down_input != ExpertInput::floats;
    float* out = nullptr;
    int8_t* q = nullptr;
    float* s = nullptr;
    if (!quantizes || layer_.has_dense_down) out = take<float>(scratch.hidden, count * width);
    if (quantizes) {
      q = take<int8_t>(scratch.hidden_q, count * width);
      s = take<float>(scratch.hidden_s, count * down_groups_);
    }
    const size_t group_columns =
        layer_.down_input == ExpertInput::int8_groups ? layer_.down_group_columns : 0;
    const RowOutput to = {width, nullptr, 0.0f, out, q, s, group_columns};
    if (layer_.down_rotation.factors) {
      float* const plain = take<float>(scratch.plain, count * width);
      gated(gate, up, layer_.activation, count, {width, nullptr, 0.0f, plain, nullptr, nullptr, 0});
      rotate_rows(plain, count, layer_.down_rotation, to);
    } else {
      gated(gate, up, layer_.activation, count, to);
    }
    return {out, q, s};
  }

  // y (k, hidden): the products of the chosen experts, each with a row of h.
  void multiply_downs(const ExpertRows& h, const int32_t* chosen, size_t k, float* y) const {
    std::vector<RankedProduct<float>> together;
    for (size_t j = 0; j < k; j++) {
      const RankedIndex* index = layer_.experts[chosen[j]].down.index;
      if (!index || !index->shares_input(*layer_.experts[chosen[0]].down.index)) break;
      together.push_back({index, y + j * layer_.hidden});
    }
    if (together.size() == k) return multiply_each(together.data(), k, layer_.down_input, h);
    for (size_t j = 0; j < k; j++) {
      const ExpertRows row = {h.floats ? h.floats + j * layer_.width : nullptr,
                              h.q ? h.q + j * layer_.width : nullptr,
                              h.s ? h.s + j * down_groups_ : nullptr};
      multiply_all({{&layer_.experts[chosen[j]].down, y + j * layer_.hidden}}, layer_.down_input,
                   row, 1);
    }
  }

  const ExpertLayer& layer_;
  const ExpertRows& x_;
  size_t groups_, down_groups_;
};

}  // namespace

void route(const float* logits, size_t count, size_t experts, size_t k, bool normalized,
           int32_t* chosen, float* weights) {
  parallel_for(count, count * experts * kCostOfChoice, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
      route_row(logits + i * experts, experts, k, normalized, chosen + i * k, weights + i * k);
  });
}

void multiply_experts(const ExpertLayer& layer, const ExpertRows& x, size_t count,
                      const int32_t* chosen, const float* weights, size_t k, size_t part,
                      size_t parts, float* y) {
  if (part == 0) std::fill_n(y, count * layer.hidden, 0.0f);
  const size_t pairs = count * k, first = pairs * part / parts, last = pairs * (part + 1) / parts;
  if (first == last) return;
  const ExpertRun run(layer, x);
  if (count == 1) {
    run.run_row(0, chosen + first, weights + first, last - first, y);
    return scratch.trim();
  }
  // Stable: the rows of an expert stay in order.
  std::vector<size_t> starts(layer.experts.size() + 1), rows(pairs);
  std::vector<float> sorted(pairs);
  for (size_t p = 0; p < pairs; p++) starts[chosen[p] + 1]++;
  for (size_t e = 0; e < layer.experts.size(); e++) starts[e + 1] += starts[e];
  std::vector<size_t> next(starts.begin(), starts.end() - 1);
  for (size_t p = 0; p < pairs; p++) {
    const size_t place = next[chosen[p]]++;
    rows[place] = p / k;
    sorted[place] = weights[p];
  }
  for (size_t e = 0; e < layer.experts.size(); e++) {
    const size_t begin = std::max(first, starts[e]), end = std::min(last, starts[e + 1]);
    if (begin < end) run.run_expert(layer.experts[e], &rows[begin], &sorted[begin], end - begin, y);
  }
  scratch.trim();
}

}  // namespace rsr
