/**
 * Return a function that calls `work` later: at most once per interval, with the arguments of the
 * last call, and never for more than a quarter of the time.
 *
 * @param {(...values: any[]) => void} work
 * @param {number} interval  milliseconds
 */
export function throttled(work, interval) {
  let timer = 0;
  let cost = 0;
  let values = [];
  const later = (...given) => {
    values = given;
    timer ||= setTimeout(
      () => {
        timer = 0;
        const begin = performance.now();
        work(...values);
        cost = performance.now() - begin;
      },
      Math.max(interval, 4 * cost),
    );
  };
  later.cancel = () => {
    clearTimeout(timer);
    timer = 0;
  };
  return later;
}
