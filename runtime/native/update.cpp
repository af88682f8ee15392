#include "update.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "packing.h"

namespace rsr {
namespace {

constexpr unsigned kNotListed = 255;  // no rank

// Ranks of every number of a pattern that may be listed: at most 3^5.
using RankOf = std::array<uint8_t, 256>;

class W16Cell {
 public:
  W16Cell(const W16Index& index, size_t row, size_t block) {
    const size_t first = row / W16::kStripRows * W16::kStripRows;
    const size_t height = strip_height<W16>(index.padded_rows - first);
    word_ = index.words + first * index.word_columns + block / W16::kBlocks * height + row - first;
    shift_ = static_cast<int>(block % W16::kBlocks) * W16::kRankBits;
  }

  unsigned rank() const { return *word_ >> shift_ & (kPatterns - 1); }
  void set_rank(unsigned rank) const {
    *word_ = static_cast<uint16_t>((*word_ & ~((kPatterns - 1) << shift_)) | rank << shift_);
  }

 private:
  uint16_t* word_;
  int shift_;
};

class N4S1Cell {
 public:
  N4S1Cell(const N4S1Index& index, size_t row, size_t block) {
    const size_t first = row / N4S1::kStripRows * N4S1::kStripRows;
    const size_t height = strip_height<N4S1>(index.padded_rows - first);
    uint8_t* strip = index.bytes + first * index.row_bytes + row - first;
    magnitude_ = strip + index.magnitudes[block] * height;
    sign_ = strip + index.signs[block] * height;
    nibble_ = index.places[block] % 2 * 4;
    bit_ = 7 - index.places[block];
  }

  unsigned rank() const {
    const int magnitude = *magnitude_ >> nibble_ & 15;
    return static_cast<unsigned>(N4S1::kZeroRank + (*sign_ >> bit_ & 1 ? -magnitude : magnitude));
  }
  // One byte may have both the magnitude and the sign.
  void set_rank(unsigned rank) const {
    const int signed_rank = static_cast<int>(rank) - N4S1::kZeroRank, negative = signed_rank < 0;
    const int magnitude = negative ? -signed_rank : signed_rank;
    *magnitude_ = static_cast<uint8_t>((*magnitude_ & ~(15 << nibble_)) | magnitude << nibble_);
    *sign_ = static_cast<uint8_t>((*sign_ & ~(1 << bit_)) | negative << bit_);
  }

 private:
  uint8_t* magnitude_;
  uint8_t* sign_;
  int nibble_, bit_;
};

// The number of a pattern after change i.
inline unsigned changed(unsigned number, unsigned base, const Changes& changes, size_t i) {
  const unsigned weight = changes.weights[i];
  return number - number / weight % base * weight + changes.digits[i] * weight;
}

// Calls visit(cell, first, end) for each run of changes of one row and block.
template <class Cell, class Index, class Visit>
void for_each_cell(const Index& index, const Changes& changes, const Visit& visit) {
  for (size_t i = 0; i < changes.count;) {
    const size_t first = i++, row = changes.rows[first], block = changes.blocks[first];
    while (i < changes.count && changes.rows[i] == row && changes.blocks[i] == block) i++;
    visit(Cell(index, row, block), first, i);
  }
}

template <class Cell, class Index>
void set_all(const Index& index, unsigned base, const Changes& changes) {
  for_each_cell<Cell>(index, changes, [&](const Cell& cell, size_t first, size_t end) {
    unsigned number = cell.rank();
    for (size_t i = first; i < end; i++) number = changed(number, base, changes, i);
    cell.set_rank(number);
  });
}

bool set_listed(const W16Index& index, unsigned base, const Listed& listed,
                const Changes& changes) {
  RankOf rank_of;
  rank_of.fill(kNotListed);
  for (size_t rank = 0; rank < listed.count; rank++)
    rank_of[listed.numbers[rank]] = static_cast<uint8_t>(rank);
  const auto rank_after = [&](unsigned rank, size_t first, size_t end) -> unsigned {
    unsigned number = listed.numbers[rank];
    for (size_t i = first; i < end; i++) number = changed(number, base, changes, i);
    return rank_of[number];
  };
  bool all = true;
  for_each_cell<W16Cell>(index, changes, [&](const W16Cell& cell, size_t first, size_t end) {
    all &= rank_after(cell.rank(), first, end) != kNotListed;
  });
  if (!all) return false;
  for_each_cell<W16Cell>(index, changes, [&](const W16Cell& cell, size_t first, size_t end) {
    const unsigned before = cell.rank(), after = rank_after(before, first, end);
    listed.occurrences[before]--;
    listed.occurrences[after]++;
    cell.set_rank(after);
  });
  return true;
}

}  // namespace

bool set_digits(const W16Index& index, unsigned base, const Listed* listed,
                const Changes& changes) {
  if (listed != nullptr) return set_listed(index, base, *listed, changes);
  set_all<W16Cell>(index, base, changes);
  return true;
}

void set_digits(const N4S1Index& index, unsigned base, const Changes& changes) {
  set_all<N4S1Cell>(index, base, changes);
}

template <class Index>
void set_digits(const SortedBlocks<Index>& index, unsigned base, const Changes& changes) {
  std::vector<uint16_t> numbers(index.rows);  // of the pattern of each row
  for (size_t i = 0; i < changes.count;) {
    const size_t block = changes.blocks[i];
    Index* permutation = index.permutation + block * index.rows;
    Index* segments = index.segments + block * (index.patterns + 1);
    for (size_t s = 0; s < index.patterns; s++)
      for (size_t p = segments[s]; p < segments[s + 1]; p++)
        numbers[permutation[p]] = static_cast<uint16_t>(s);
    for (; i < changes.count && changes.blocks[i] == block; i++) {
      uint16_t& number = numbers[changes.rows[i]];
      number = static_cast<uint16_t>(changed(number, base, changes, i));
    }
    std::fill(segments, segments + index.patterns + 1, Index{0});
    for (const uint16_t number : numbers) segments[number + size_t{1}]++;
    std::partial_sum(segments, segments + index.patterns + 1, segments);
    // segments[s] becomes the end of segment s, which is where segment s + 1 begins.
    for (size_t r = 0; r < index.rows; r++)
      permutation[segments[numbers[r]]++] = static_cast<Index>(r);
    std::copy_backward(segments, segments + index.patterns, segments + index.patterns + 1);
    segments[0] = 0;
  }
}

template void set_digits(const SortedBlocks<uint16_t>&, unsigned, const Changes&);
template void set_digits(const SortedBlocks<uint32_t>&, unsigned, const Changes&);

}  // namespace rsr
