// AVX2 with FMA and F16C: kLanes floats are two registers. Of 16 registers, a tile of 6 queries x 1
// vector takes 12 for its sums, 2 for the vector and 1 for a broadcast: 12 multiply-adds for 8
// loads.
#include "decoder/lanes_avx2.h"
// after the lanes:
#include "decoder/attention_kernels.h"
#include "decoder/delta_net_kernels.h"
#include "decoder/low_rank_kernels.h"

namespace rsr {

void fill_decoder_avx2(KernelTable& table) {
  table.decoder = kDecoder;
  table.delta_net = kDeltaNet;
  table.low_rank = kLowRank;
}

}  // namespace rsr
