#include "decoder/attention.h"

#include <algorithm>
#include <limits>

#include "buffer.h"
#include "dispatch.h"
#include "parallel.h"

namespace rsr {
namespace {

constexpr size_t kFewRows = 8;         // threads divide the chunks of so few; otherwise the rows
constexpr size_t kTasksPerThread = 4;  // if there are rows enough

// Scratch of a thread: `shared` holds the results of all chunks of a call that it starts,
// `per_thread` and `results` serve its share of any call.
struct Scratch {
  Buffer shared, per_thread, results;
};
thread_local Scratch scratch;

class Attention {
 public:
  Attention(const AttentionRows& rows, const Heads& heads, const Rope& rope, const KVCache& cache,
            float scale, size_t window)
      : kernels_(kernels().decoder),
        cells_(cache.type == CacheType::float32   ? kernels_.f32
               : cache.type == CacheType::float16 ? kernels_.f16
                                                  : kernels_.i8),
        given_(rows),
        rows_(rows.rows),
        start_(rows.start),
        heads_(heads),
        group_(heads.queries / heads.keys),
        dv_(whole_lanes(heads.d)),
        rope_(rope),
        cache_(cache),
        scale_(scale),
        window_(window) {}

  void run() const {
    if (rows_ == 0) return;
    store_keys_and_values();
    rows_ <= kFewRows ? by_chunks() : by_rows();
    scratch.shared.trim();
    scratch.per_thread.trim();
    scratch.results.trim();
  }

 private:
  size_t cell_bytes() const {
    return cache_.type == CacheType::float32   ? sizeof(float)
           : cache_.type == CacheType::float16 ? sizeof(uint16_t)
                                               : sizeof(int8_t);
  }
  size_t row_floats() const { return heads_.queries * heads_.d; }
  // The first position that a row sees, and the chunks [first, last) that rows see.
  size_t first_seen(size_t row) const {
    return start_ + row + 1 > window_ ? start_ + row + 1 - window_ : 0;
  }
  size_t first_chunk(size_t row = 0) const { return first_seen(row) / kChunkPositions; }
  size_t last_chunk() const { return (start_ + rows_ - 1) / kChunkPositions + 1; }
  size_t chunks() const { return last_chunk() - first_chunk(); }

  // Floats of a result: sums, then statistics, padded to whole lanes.
  size_t result_floats(size_t queries) const {
    return queries * dv_ + whole_lanes(queries * kStatistics);
  }

  // Of rows [first, last), those that see a chunk.
  struct RowRange {
    size_t first, last;
  };
  RowRange that_see(size_t chunk, size_t first, size_t last) const {
    const size_t begin = chunk * kChunkPositions, end = begin + kChunkPositions;
    const size_t until = end > std::numeric_limits<size_t>::max() - window_ ? last
                         : end + window_ > start_ + 1 ? end + window_ - 1 - start_
                                                      : 0;
    return {std::max(first, begin > start_ ? begin - start_ : 0), std::min(last, until)};
  }

  void* key_block(size_t head, size_t position) const {
    const size_t block = head * cache_.blocks + position / kLanes;
    return static_cast<char*>(cache_.keys) + block * heads_.d * kLanes * cell_bytes();
  }
  void* value(size_t head, size_t position) const {
    return static_cast<char*>(cache_.values) + entry(head, position) * dv_ * cell_bytes();
  }
  size_t entry(size_t head, size_t position) const {
    return head * cache_.blocks * kLanes + position;
  }
  float* scale_of(float* scales, size_t head, size_t position) const {
    return scales ? scales + entry(head, position) : nullptr;
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

  const float* angles(const float* table, size_t p) const { return table + p * rope_.half; }

  // A head at position p, times scale.
  void normalize_and_rotate(float* x, const float* norm, size_t p, float scale) const {
    const float *cos = angles(rope_.cos, p), *sin = angles(rope_.sin, p);
    if (!norm || !rope_.norms_follow) {
      kernels_.rotate(x, heads_.d, rope_.half, norm, rope_.eps, cos, sin, scale);
      return;
    }
    kernels_.rotate(x, heads_.d, rope_.half, nullptr, 0.0f, cos, sin, 1.0f);
    kernels_.normalize(x, nullptr, {heads_.d, norm, rope_.eps, x, nullptr, nullptr});
    for (size_t i = 0; i < heads_.d; i++) x[i] *= scale;
  }

  void store_position(size_t p) const {
    const size_t d = heads_.d, row = p - start_, lane = p % kLanes * cell_bytes();
    for (size_t h = 0; h < heads_.keys; h++) {
      float* k = given_.k + (row * heads_.keys + h) * d;
      normalize_and_rotate(k, rope_.key_norm, p, 1.0f);
      cells_.store(k, given_.v + (row * heads_.keys + h) * d, d,
                   {static_cast<char*>(key_block(h, p)) + lane, value(h, p),
                    scale_of(cache_.key_scales, h, p), scale_of(cache_.value_scales, h, p)});
    }
  }

  // The query heads of rows [first, last) that share a key head.
  void rotate_queries(size_t head, size_t first, size_t last) const {
    for (size_t row = first; row < last; row++)
      for (size_t h = head * group_; h < (head + 1) * group_; h++)
        normalize_and_rotate(given_.q + row * row_floats() + h * heads_.d, rope_.query_norm,
                             start_ + row, scale_);
  }

  // A chunk of a key head.
  struct Unit {
    size_t head, chunk;
  };

  // Rows [first, last) of a unit that all of them see. The next unit, if any, is prefetched.
  void attend(const Unit& unit, size_t first, size_t last, float* sums, float* statistics,
              bool combines, const Unit* next) const {
    const size_t head = unit.head, position = unit.chunk * kChunkPositions;
    const size_t rows = last - first, after = next ? next->chunk * kChunkPositions : 0;
    void* memory = scratch.per_thread.get(cells_.scratch_bytes(rows * group_, heads_.d));
    cells_.attend(
        {given_.q + first * row_floats() + head * group_ * heads_.d, row_floats(), rows, group_,
         heads_.d, start_ + first + 1 - position, window_, key_block(head, position),
         value(head, position), scale_of(cache_.key_scales, head, position),
         scale_of(cache_.value_scales, head, position), memory, sums, statistics, combines,
         next ? key_block(next->head, after) : nullptr, next ? value(next->head, after) : nullptr});
  }

  // Before the first chunk of a row.
  void clear(size_t queries, float* sums, float* statistics) const {
    std::fill_n(sums, queries * dv_, 0.0f);
    for (size_t j = 0; j < queries; j++) {
      statistics[j * kStatistics + kMaximum] = -std::numeric_limits<float>::infinity();
      statistics[j * kStatistics + kTotal] = 0.0f;
    }
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
    const size_t queries = rows_ * group_, results = result_floats(queries);
    const size_t units = heads_.keys * chunks();
    float* all = static_cast<float*>(scratch.shared.get(units * results * sizeof(float)));
    const size_t cost =
        units * kChunkPositions * (heads_.d + dv_) * cell_bytes();  // too little stays here
    const auto unit = [this](size_t u) -> Unit {
      return {u / chunks(), first_chunk() + u % chunks()};
    };
    parallel_for(units, cost, [this, all, queries, results, units, unit](size_t begin, size_t end) {
      for (size_t u = begin; u < end; u++) {
        const Unit here = unit(u), next = unit(u + 1);
        const RowRange rows = that_see(here.chunk, 0, rows_);
        float* sums = all + u * results;
        attend(here, rows.first, rows.last, sums + rows.first * group_ * dv_,
               sums + queries * dv_ + rows.first * group_ * kStatistics, false,
               u + 1 < units ? &next : nullptr);
      }
    });
    const size_t bytes = units * results * sizeof(float);
    parallel_for(heads_.keys, bytes, [this, all, results](size_t begin, size_t end) {
      for (size_t h = begin; h < end; h++) combine_chunks(h, all + h * chunks() * results, results);
    });
  }

  void combine_chunks(size_t head, const float* parts, size_t results) const {
    const size_t queries = rows_ * group_;
    float* all = static_cast<float*>(scratch.results.get(results * sizeof(float)));
    float* all_statistics = all + queries * dv_;
    clear(queries, all, all_statistics);
    for (size_t c = 0; c < chunks(); c++) {
      const RowRange rows = that_see(first_chunk() + c, 0, rows_);
      const size_t j = rows.first * group_;
      const float* sums = parts + c * results;
      kernels_.combine((rows.last - rows.first) * group_, dv_, sums + j * dv_,
                       sums + queries * dv_ + j * kStatistics, all + j * dv_,
                       all_statistics + j * kStatistics);
    }
    write_out(head, 0, rows_, all, all_statistics);
  }

  // Threads divide the rows of each key head; a part of the rows visits the chunks that it sees.
  void by_rows() const {
    const size_t most = std::max<size_t>(1, cells_.most_queries / group_);
    const size_t tasks = kTasksPerThread * static_cast<size_t>(num_threads());
    const size_t wanted = std::max(divide_up(rows_, most), divide_up(tasks, heads_.keys));
    const size_t step = divide_up(rows_, wanted), parts = divide_up(rows_, step);
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
    const size_t queries = (last - first) * group_;
    float* sums = static_cast<float*>(scratch.results.get(result_floats(queries) * sizeof(float)));
    float* statistics = sums + queries * dv_;
    clear(queries, sums, statistics);
    const size_t end = (start_ + last - 1) / kChunkPositions + 1;
    for (size_t c = first_chunk(first); c < end; c++) {
      const RowRange rows = that_see(c, first, last);
      const size_t j = (rows.first - first) * group_;
      const Unit next = {head, c + 1};
      attend({head, c}, rows.first, rows.last, sums + j * dv_, statistics + j * kStatistics, true,
             c + 1 < end ? &next : nullptr);
    }
    write_out(head, first, last, sums, statistics);
  }

  const DecoderKernels& kernels_;
  const CacheKernels& cells_;
  const AttentionRows& given_;
  size_t rows_, start_;
  Heads heads_;
  size_t group_, dv_;  // query heads per key head; whole_lanes(d)
  Rope rope_;
  KVCache cache_;
  float scale_;
  size_t window_;
};

}  // namespace

void attend(const AttentionRows& rows, const Heads& heads, const Rope& rope, const KVCache& cache,
            float scale, size_t window) {
  Attention(rows, heads, rope, cache, scale, window).run();
}

}  // namespace rsr
