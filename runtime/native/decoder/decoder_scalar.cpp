// Plain C++.
#include "decoder/lanes_scalar.h"
// after the lanes:
#include "decoder/attention_kernels.h"
#include "decoder/delta_net_kernels.h"
#include "decoder/low_rank_kernels.h"

namespace rsr {

void fill_decoder_scalar(KernelTable& table) {
  table.decoder = kDecoder;
  table.delta_net = kDeltaNet;
  table.low_rank = kLowRank;
}

}  // namespace rsr
