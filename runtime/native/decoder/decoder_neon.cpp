// NEON: kLanes floats are four registers. Of 32 registers, a tile of 6 queries x 1 vector takes 24
// for its sums, 4 for the vector and 1 for a broadcast: 24 multiply-adds for 10 loads.
#include "decoder/lanes_neon.h"
// after the lanes:
#include "decoder/attention_kernels.h"
#include "decoder/delta_net_kernels.h"
#include "decoder/low_rank_kernels.h"

namespace rsr {

void fill_decoder_neon(KernelTable& table) {
  table.decoder = kDecoder;
  table.delta_net = kDeltaNet;
  table.low_rank = kLowRank;
}

}  // namespace rsr
