// The thread pool of the process.
#pragma once
#include <cstddef>
#include <functional>

namespace rsr {

int num_threads();
void set_num_threads(int n);  // throws std::invalid_argument unless 1 <= n <= 1024

// Calls body(begin, end) over disjoint ranges that cover [0, count), on the calling thread and at
// most num_threads() - 1 others; returns when all are done. `cost` is the total work in bytes read:
// too little runs on the calling thread alone. Ranges vary from call to call, so a body writes only
// to its range, and its result must not depend on the range. Rethrows an exception of a body after
// all are done.
//
// If several threads call at once, the pool serves one; the others do their work themselves.
void parallel_for(size_t count, size_t cost, const std::function<void(size_t, size_t)>& body);

}  // namespace rsr
