#include "decoder/attention.h"

#include <algorithm>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kFewRows = 8;        // threads divide the chunks of so few; otherwise the rows
constexpr size_t kTaskQueries = 128;  // that read keys and values from the caches

// Scratch of a thread: `shared` holds the results of all chunks of a call that it starts,
// `per_thread` and `results` serve its share of any call.
struct Scratch {
  Buffer shared, per_thread, results;
};
thread_local Scratch scratch;

class Attention {
 public:
  Attention(const AttentionRows& rows, const Heads& heads, const Rope& rope, const KVCache& cache,
            float scale)
      : kernels_(kernels().decoder),
        given_(rows),
        rows_(rows.rows),
        start_(rows.start),
        heads_(heads),
        group_(heads.queries / heads.keys),
        dv_(whole_lanes(heads.d)),
        rope_(rope),
        cache_(cache),
        scale_(scale) {}

  void run() const {
    if (rows_ == 0) return;
    store_keys_and_values();
    rows_ <= kFewRows ? by_chunks() : by_rows();
    scratch.shared.trim();
    scratch.per_thread.trim();
    scratch.results.trim();
  }

 private:
  size_t cell_bytes() const { return cache_.is_half ? sizeof(uint16_t) : sizeof(float); }
  size_t row_floats() const { return heads_.queries * heads_.d; }
  size_t chunks() const { return (start_ + rows_ - 1) / kChunkPositions + 1; }

  // Floats of a result: sums, then statistics, padded to whole lanes.
  size_t result_floats(size_t queries) const {
    return queries * dv_ + whole_lanes(queries * kStatistics);
  }

  // The first row from `row` on that sees position p.
  size_t first_that_sees(size_t p, size_t row) const {
    return std::max(row, p > start_ ? p - start_ : 0);
  }

  void* key_block(size_t head, size_t position) const {
    const size_t block = head * cache_.blocks + position / kLanes;
    return static_cast<char*>(cache_.keys) + block * heads_.d * kLanes * cell_bytes();
  }
  void* value(size_t head, size_t position) const {
    const size_t number = head * cache_.blocks * kLanes + position;
    return static_cast<char*>(cache_.values) + number * dv_ * cell_bytes();
  }

  // By blocks of positions, so that no two threads write to one cache line of keys.
  void store_keys_and_values() const {
    const size_t first = start_ / kLanes, last = (start_ + rows_ - 1) / kLanes;
    const size_t cost = rows_ * 4 * heads_.keys * heads_.d * sizeof(float);
    parallel_for(last - first + 1, cost, [this, first](size_t begin, size_t end) {
      const size_t from = std::max(start_, (first + begin) * kLanes);
      const size_t to = std::min(start_ + rows_, (first + end) * kLanes);
      for (size_t p = from; p < to; p++) store_position(p);
    });
  }

  const float* angles(const float* table, size_t p) const { return table + p * (heads_.d / 2); }

  void store_position(size_t p) const {
    const size_t d = heads_.d, row = p - start_, lane = p % kLanes * cell_bytes();
    for (size_t h = 0; h < heads_.keys; h++) {
      float* k = given_.k + (row * heads_.keys + h) * d;
      kernels_.rotate(k, d, rope_.key_norm, rope_.eps, angles(rope_.cos, p), angles(rope_.sin, p),
                      1.0f);
      kernels_.store(k, given_.v + (row * heads_.keys + h) * d, d,
                     static_cast<char*>(key_block(h, p)) + lane, value(h, p), cache_.is_half);
    }
  }

  // The query heads of rows [first, last) that share a key head.
  void rotate_queries(size_t head, size_t first, size_t last) const {
    for (size_t row = first; row < last; row++)
      for (size_t h = head * group_; h < (head + 1) * group_; h++)
        kernels_.rotate(given_.q + row * row_floats() + h * heads_.d, heads_.d, rope_.query_norm,
                        rope_.eps, angles(rope_.cos, start_ + row), angles(rope_.sin, start_ + row),
                        scale_);
  }

  // Rows [first, last) of a key head and a chunk that all of them see.
  void attend(size_t head, size_t first, size_t last, size_t chunk, float* sums,
              float* statistics) const {
    const size_t rows = last - first, position = chunk * kChunkPositions;
    const size_t floats =
        rows * group_ * kChunkPositions + (cache_.is_half ? kChunkPositions * (heads_.d + dv_) : 0);
    kernels_.attend({given_.q + first * row_floats() + head * group_ * heads_.d, row_floats(), rows,
                     group_, heads_.d, start_ + first + 1 - position, key_block(head, position),
                     value(head, position), cache_.is_half,
                     static_cast<float*>(scratch.per_thread.get(floats * sizeof(float))), sums,
                     statistics});
  }

  void write_out(size_t head, size_t first, size_t last, const float* sums,
                 const float* statistics) const {
    for (size_t row = first; row < last; row++) {
      const size_t j = (row - first) * group_;
      kernels_.divide(group_, heads_.d, sums + j * dv_, statistics + j * kStatistics,
                      given_.out + row * row_floats() + head * group_ * heads_.d);
    }
  }

  // Threads divide the cache: the chunks of each key head.
  void by_chunks() const {
    for (size_t h = 0; h < heads_.keys; h++) rotate_queries(h, 0, rows_);
    const size_t results = result_floats(rows_ * group_);
    const size_t units = heads_.keys * chunks();
    float* all = static_cast<float*>(scratch.shared.get(units * results * sizeof(float)));
    const size_t cost = heads_.keys * (start_ + rows_) * (heads_.d + dv_) * cell_bytes();
    parallel_for(units, cost, [this, all, results](size_t begin, size_t end) {
      const size_t queries = rows_ * group_;
      for (size_t u = begin; u < end; u++) {
        const size_t chunk = u % chunks();
        const size_t first = first_that_sees(chunk * kChunkPositions, 0);
        float* sums = all + u * results;
        attend(u / chunks(), first, rows_, chunk, sums + first * group_ * dv_,
               sums + queries * dv_ + first * group_ * kStatistics);
      }
    });
    parallel_for(heads_.keys, units * results * sizeof(float),
                 [this, all, results](size_t begin, size_t end) {
                   for (size_t h = begin; h < end; h++)
                     combine_chunks(h, all + h * chunks() * results, results);
                 });
  }

  void combine_chunks(size_t head, float* all, size_t results) const {
    const size_t statistics = rows_ * group_ * dv_;  // after the sums
    for (size_t c = 1; c < chunks(); c++) {
      const size_t j = first_that_sees(c * kChunkPositions, 0) * group_;
      const float* sums = all + c * results;
      kernels_.combine(rows_ * group_ - j, dv_, sums + j * dv_, sums + statistics + j * kStatistics,
                       all + j * dv_, all + statistics + j * kStatistics);
    }
    write_out(head, 0, rows_, all, all + statistics);
  }

  // Threads divide the rows of each key head; a part of the rows visits the chunks that it sees.
  void by_rows() const {
    const size_t most = std::max<size_t>(1, kTaskQueries / group_);
    const size_t step = std::min(most, (rows_ + 3) / 4), parts = (rows_ + step - 1) / step;
    const size_t cost = heads_.queries * rows_ * (start_ + rows_) * sizeof(float);
    parallel_for(heads_.keys * parts, cost, [this, step, parts](size_t begin, size_t end) {
      for (size_t u = begin; u < end; u++) {
        const size_t first = u % parts * step;
        attend_rows(u / parts, first, std::min(rows_, first + step));
      }
    });
  }

  void attend_rows(size_t head, size_t first, size_t last) const {
    rotate_queries(head, first, last);  // here, so that they are in the cache when used
    const size_t queries = (last - first) * group_, results = result_floats(queries);
    float* all = static_cast<float*>(scratch.results.get(2 * results * sizeof(float)));
    float* all_statistics = all + queries * dv_;
    attend(head, first, last, 0, all, all_statistics);
    float* sums = all + results;
    float* statistics = sums + queries * dv_;
    for (size_t c = 1; c * kChunkPositions < start_ + last; c++) {
      const size_t row = first_that_sees(c * kChunkPositions, first), j = (row - first) * group_;
      attend(head, row, last, c, sums, statistics);
      kernels_.combine(queries - j, dv_, sums, statistics, all + j * dv_,
                       all_statistics + j * kStatistics);
    }
    write_out(head, first, last, all, all_statistics);
  }

  const DecoderKernels& kernels_;
  const AttentionRows& given_;
  size_t rows_, start_;
  Heads heads_;
  size_t group_, dv_;  // query heads per key head; whole_lanes(d)
  Rope rope_;
  KVCache cache_;
  float scale_;
};

}  // namespace

void attend(const AttentionRows& rows, const Heads& heads, const Rope& rope, const KVCache& cache,
            float scale) {
  Attention(rows, heads, rope, cache, scale).run();
}

}  // namespace rsr
