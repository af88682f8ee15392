// One small pool of threads for the whole process.
#pragma once
#include <cstddef>
#include <functional>

namespace rsr {

int num_threads();
void set_num_threads(int n);  // throws std::invalid_argument unless 1 <= n <= 1024

// Calls body(begin, end) over disjoint ranges that cover [0, count), on the calling thread and at
// most num_threads() - 1 others, and returns when all are done. `cost` is the work of all in bytes
// read: too little is done on the calling thread alone. Which thread does what may change nothing
// in the result: a body writes only what belongs to its range. An exception of a body is rethrown
// when all are done.
//
// Several threads may call at once: the pool serves one, the others do their work themselves.
void parallel_for(size_t count, size_t cost, const std::function<void(size_t, size_t)>& body);

}  // namespace rsr
