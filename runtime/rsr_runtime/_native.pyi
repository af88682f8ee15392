from collections.abc import Callable, Sequence
from typing import Annotated, Any, overload

import numpy
import numpy.typing
from numpy.typing import NDArray


STEP_COLUMNS: int = 128

class Ranked:
    """An index in encoding ranked. The caller has checked its ranks."""

    @overload
    def __init__(self, words: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: int, columns: int, patterns: Annotated[NDArray[numpy.int16], dict(shape=(None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale_rows: int, group_scale: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, group_columns: int = 0, stride: int = 1) -> None:
        """
        Packing w16.

        words: (padded rows * word columns,), strips of word columns (formats/SPEC.md). patterns: (k, count), the value of digit d in pattern p; k from 1 to 5, count up to 32; other ranks stand for zeros. scale: one per scale_rows rows. group_scale: replaces scale, (groups, rows) float16 or float32 as bytes, one group per group_columns columns. stride: from one input of a column block to the next. Raises ValueError for sizes that do not match.
        """

    @overload
    def __init__(self, bytes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: int, columns: int, patterns: Annotated[NDArray[numpy.int16], dict(shape=(None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale_rows: int, group_scale: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None = None, group_columns: int = 0) -> None:
        """
        Packing n4s1.

        bytes: (padded rows * bytes of a row,), strips of units. patterns: (3, count), those of three ternary digits in order. scale: one per scale_rows rows. group_scale and group_columns: as for w16; units end with every group. Raises ValueError for sizes that do not match.
        """

    def times(self, x: object, most_dimensions: int) -> numpy.typing.NDArray[Any] | None:
        """
        W @ x, as multiply_i8 or multiply_f32, in one call that checks x and allocates.

        x: (in_features,) or, if most_dimensions is 2, (in_features, count). Returns None, not an error, for what is no aligned, C- or F-contiguous numpy.ndarray of float32 or int8 of these shapes.
        """

    def linear(self, x: object, activations: object) -> numpy.typing.NDArray[numpy.float32] | None:
        """
        x @ W.T, in one call that checks x and allocates: as multiply_f32 for activations 'float32', multiply_quantizing for 'int8', multiply_group_quantizing for 'int8-group'.

        x: (..., in_features). Returns None, not an error, for what is no aligned, C-contiguous numpy.ndarray of float32 of this shape, and for other activations.
        """

    @property
    def step_columns(self) -> int:
        """
        Columns of a group of inputs that are quantized by groups: those of the scales, else STEP_COLUMNS.
        """

    def shares_input(self, other: Ranked) -> bool:
        """
        Whether both read the same inputs, so that one product can serve both: packing, columns, k, stride, groups and patterns are equal.
        """

class Permuted16:
    """
    An index in encoding permuted: a permutation and a segment list for each column block. The caller has checked their values.
    """

    def __init__(self, permutation: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], segments: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], columns: int, k: int, values: Annotated[NDArray[numpy.int8], dict(shape=(None,), order='C', device='cpu', writable=False)], reduce: bool, scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale_rows: int) -> None:
        """
        permutation: (blocks, rows). segments: (blocks, base^k + 1). values: (base,), what the digits stand for; base 2 to 5, k from 1 to 16. reduce: y = x A; otherwise y = A x, of the indexed matrix A (rows, columns). scale: one per scale_rows output rows. Raises ValueError for other shapes.
        """

    def multiply_i8(self, x: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], plus_plus: bool) -> None:
        """
        y = W x for each row of x, exact and unscaled. x: (count, in_features). y: (count, out_features), written. plus_plus: step 2 of RSR++; otherwise of RSR. Raises ValueError for other shapes.
        """

    def multiply_f32(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], plus_plus: bool) -> None:
        """
        As multiply_i8, scaled, within n 2^-24 |scale| sum|x| for n = max(in_features, 3).
        """

class Permuted32:
    """
    An index in encoding permuted: a permutation and a segment list for each column block. The caller has checked their values.
    """

    def __init__(self, permutation: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu', writable=False)], segments: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu', writable=False)], columns: int, k: int, values: Annotated[NDArray[numpy.int8], dict(shape=(None,), order='C', device='cpu', writable=False)], reduce: bool, scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale_rows: int) -> None:
        """
        permutation: (blocks, rows). segments: (blocks, base^k + 1). values: (base,), what the digits stand for; base 2 to 5, k from 1 to 16. reduce: y = x A; otherwise y = A x, of the indexed matrix A (rows, columns). scale: one per scale_rows output rows. Raises ValueError for other shapes.
        """

    def multiply_i8(self, x: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], plus_plus: bool) -> None:
        """
        y = W x for each row of x, exact and unscaled. x: (count, in_features). y: (count, out_features), written. plus_plus: step 2 of RSR++; otherwise of RSR. Raises ValueError for other shapes.
        """

    def multiply_f32(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], plus_plus: bool) -> None:
        """
        As multiply_i8, scaled, within n 2^-24 |scale| sum|x| for n = max(in_features, 3).
        """

class Program:
    """
    Calls of this module, recorded once and repeated without Python between them. Its methods take the arguments of the functions of the same name, after `part`, and hold their arrays, which are read when it runs.
    """

    def __init__(self) -> None: ...

    def call(self, part: int, function: Callable[..., object], *arguments: object) -> None:
        """Add a step that calls function(*arguments) with the GIL."""

    def run(self, seconds: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')]) -> None:
        """
        Run all steps in order and add the time of each to seconds[part].

        seconds: (parts,), float64, in seconds. Raises ValueError while the program runs already, or if seconds has no entry for a part; KeyboardInterrupt between two steps; and what a called function raises.
        """

    def multiply_i8(self, part: int, matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
        """
        y[j] = x @ W[j].T, exact and unscaled.

        matrices share their input (shares_input). x: (count, in_features). y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
        """

    def multiply_f32(self, part: int, matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
        """
        y[j] = x @ W[j].T, scaled, within n 2^-24 |scale| sum|x| for n = max(in_features, 3).

        matrices share their input (shares_input). x: (count, in_features). y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
        """

    def multiply_quantized(self, part: int, matrices: Sequence[Ranked], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
        """
        y[j] = (q @ W[j].T) * scale / s: sums exact, then two roundings to float32.

        q: (count, in_features). s: (count, 1), as quantize_i8 returns both. y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
        """

    def multiply_group_quantized(self, part: int, matrices: Sequence[Ranked], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], steps: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
        """
        y[j] = sum over groups of columns of (scale * step) * (the exact sum of q @ W[j].T).

        Without scales of groups, of groups of STEP_COLUMNS columns, and within n 2^-24 |scale| sum|q * step| for n = in_features + 2.

        matrices share their input (shares_input). q: (count, in_features). steps: (count, groups), what a unit of q stands for, as quantize_groups_i8 returns both. y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
        """

    @overload
    def multiply_dense(self, part: int, weight: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], dtype: str, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        y = x @ weight.T, float32 sums within columns * 2^-24 * (|x| @ |weight|.T).

        weight: (rows, columns), as a file stores it. dtype: 'F32' with float32 weights, 'F16' with float16 or uint16, 'BF16' with uint16. x: (count, columns). y: (count, rows), written. Raises ValueError for another dtype or shape.
        """

    @overload
    def multiply_dense(self, part: int, weight: Annotated[NDArray[numpy.float16], dict(shape=(None, None), order='C', device='cpu', writable=False)], dtype: str, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """The same for float16 weights."""

    @overload
    def multiply_dense(self, part: int, weight: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], dtype: str, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """The same for float16 or bfloat16 bits."""

    def multiply_rows_i8(self, part: int, weight: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        y = (q @ weight.T) * scale / s: sums exact, then two roundings to float32.

        weight: (rows, columns), columns < 2^17. scale: (rows,). q: (count, columns). s: (count, 1). y: (count, rows), written. Raises ValueError for other shapes.
        """

    def normalize(self, part: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], add: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, eps: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
        """
        x += add; then the RMS norm of x, x / sqrt(mean(x^2) + eps) * weight, to out, to (q, s), or to both.

        x: (count, n), overwritten if add is given. add: (count, n), or None. weight: (n,), or None for no RMS norm. out: (count, n) float32, or None. q: (count, n) int8 and s: (count, 1), as of quantize_i8, or None both. group_columns: above 0, q and s are as of quantize_groups_i8. Raises ValueError for other shapes, or if there is no output.
        """

    def gated(self, part: int, gate: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], up: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], activation: str, weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, eps: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
        """
        activation(gate) * up, then its RMS norm as in normalize, to out, to (q, s), or to both.

        gate, up: (count, n). activation: 'silu', 'relu2', 'gelu_tanh' or 'sigmoid'. weight: (n,), or None for no RMS norm. out: (count, n) float32, or None. q: (count, n) int8 and s: (count, 1), as of quantize_i8, or None both. group_columns: above 0, q and s are as of quantize_groups_i8. Raises ValueError for other shapes, or if there is no output.
        """

    def rotate(self, part: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], block: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
        """
        H (factors * x) to out, to (q, s), or to both, where H is the Walsh-Hadamard matrix [(-1)^popcount(r & c)] on the diagonal blocks of a matrix.

        x: (count, n). factors: (n,). block: rows of H, a power of two from 16 on that divides n. out, q, s, group_columns: as of normalize; out may be x. Raises ValueError for other shapes, or if there is no output.
        """

    def rotate_back(self, part: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], block: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        factors * (H x) to out; with factors of magnitude block^-1/2, what undoes rotate.

        x, out: (count, n); out may be x. factors, block: as of rotate. Raises ValueError for other shapes.
        """

    def delta_net(self, part: int, qkv: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], a: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], b: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], weights: DeltaWeights, state: DeltaState, convolved: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        Pass rows through a gated delta net, and update its state.

        qkv goes through the convolution and SiLU; queries and keys are divided by their L2 norms, queries also by sqrt(dk). Then, for each row and value head: S *= exp(a softplus(a_row + dt_bias)); e = sigmoid(b_row) (v - S^T k); S += k e^T; out = S^T q. Several value heads in a row share a query and a key head.

        qkv: (rows, channels): query heads, key heads, value heads. a, b: (rows, value heads), overwritten. convolved: scratch of the shape of qkv. out: (rows, value heads * dv), written. Raises ValueError for other shapes.
        """

    def norm_gated(self, part: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], z: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], eps: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
        """
        The RMS norm of each head of x, times weight and silu(z), to out, to (q, s), or to both.

        x, z: (count, n). weight: (d,), a divisor of n. eps: of the norm. Outputs are as of normalize. Raises ValueError for other shapes, or if there is no output.
        """

    def add_low_rank(self, part: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], a: Sequence[Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu', writable=False)]], b: Sequence[Annotated[NDArray, dict(shape=(None, None, None), order='C', device='cpu', writable=False)]], scales: Sequence[float], scratch: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
        """
        y[i] += scales[i] * (x @ a[i].T) @ B[i].T, float32 sums.

        x: (count, columns). a: of each product (rank, columns). b: B (rows, rank) of each as (rows / 16 rounded up, rank, 16): tiles of 16 rows, the last padded with zeros. a and b are float32, float16, or bfloat16 as uint16. scratch: (count * the sum of all ranks,), overwritten. y: of each (count, rows). Raises ValueError for other shapes and dtypes.
        """

    def attend(self, part: int, q: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu')], k: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu')], v: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], rope: Rope, cache: KVCache, start: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], window: int | None = None) -> None:
        """
        Attention of rows at positions start, start + 1, ... of one sequence.

        Normalizes and rotates q and k in place, writes k and v to the cache; then out[i] = softmax(scale q[i] . keys[: start + i + 1]) values[: start + i + 1] for each head.

        window: a row sees no more than so many positions, its own included; None: all. q: (rows, heads, d), d even. k, v: (rows, key heads, d). start: (1,) int64; a program reads it when it runs. out: (rows, heads * d), written. Raises ValueError for other shapes, and, when it runs, for rows beyond the cache or beyond cos and sin.
        """

    def route(self, part: int, logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], normalized: bool, chosen: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        The experts of each row with the largest softmax(logits), and these probabilities.

        logits: (count, experts). normalized: divide the probabilities of a row by their sum. chosen: (count, k), written, ascending; of equal logits the first is chosen. weights: (count, k), written, within (9 + largest - logit) 2^-24 of each. Raises ValueError for other shapes.
        """

    def multiply_experts(self, part: int, experts: Experts, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, chosen: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], share: int, shares: int, y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        y[i] = sum over j of weights[i, j] * down(activation(gate(x[i])) * up(x[i])) of expert chosen[i, j], in ascending order of the experts.

        x: (count, hidden), float32, or None. q: int8, and s: (count, 1) or (count, groups), as quantize_i8 or quantize_groups_i8 returns them, or None. chosen, weights: (count, k), as of route. share: of `shares` equal ones, which are called in order. y: (count, hidden), complete after the last share. Raises ValueError for other shapes, and, when it runs, for an expert that does not exist.
        """

def multiply_i8(matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    y[j] = x @ W[j].T, exact and unscaled.

    matrices share their input (shares_input). x: (count, in_features). y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
    """

def multiply_f32(matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    y[j] = x @ W[j].T, scaled, within n 2^-24 |scale| sum|x| for n = max(in_features, 3).

    matrices share their input (shares_input). x: (count, in_features). y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
    """

def multiply_quantized(matrices: Sequence[Ranked], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    y[j] = (q @ W[j].T) * scale / s: sums exact, then two roundings to float32.

    q: (count, in_features). s: (count, 1), as quantize_i8 returns both. y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
    """

@overload
def multiply_columns(matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.int8], dict(shape=(None, None), device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    y[j] = W[j] @ x, exact and unscaled.

    x: (in_features, count), C- or F-contiguous. y: for each matrix (out_features, count), written. Raises ValueError for other shapes.
    """

@overload
def multiply_columns(matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """The same for float32, scaled and within the bound of multiply_f32."""

def multiply_quantizing(matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    multiply_quantized of q and s as quantize_i8 makes them of x.

    x: (count, in_features). y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
    """

def multiply_group_quantizing(matrices: Sequence[Ranked], x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    multiply_group_quantized of q and steps as quantize_groups_i8 makes them of x, by groups of step_columns.

    x and y: as of multiply_quantizing.
    """

def multiply_group_quantized(matrices: Sequence[Ranked], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], steps: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    y[j] = sum over groups of columns of (scale * step) * (the exact sum of q @ W[j].T).

    Without scales of groups, of groups of STEP_COLUMNS columns, and within n 2^-24 |scale| sum|q * step| for n = in_features + 2.

    matrices share their input (shares_input). q: (count, in_features). steps: (count, groups), what a unit of q stands for, as quantize_groups_i8 returns both. y: for each matrix (count, out_features), written. Raises ValueError for other shapes.
    """

@overload
def multiply_dense(weight: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], dtype: str, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    y = x @ weight.T, float32 sums within columns * 2^-24 * (|x| @ |weight|.T).

    weight: (rows, columns), as a file stores it. dtype: 'F32' with float32 weights, 'F16' with float16 or uint16, 'BF16' with uint16. x: (count, columns). y: (count, rows), written. Raises ValueError for another dtype or shape.
    """

@overload
def multiply_dense(weight: Annotated[NDArray[numpy.float16], dict(shape=(None, None), order='C', device='cpu', writable=False)], dtype: str, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """The same for float16 weights."""

@overload
def multiply_dense(weight: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], dtype: str, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """The same for float16 or bfloat16 bits."""

def multiply_rows_i8(weight: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], scale: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)], s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    y = (q @ weight.T) * scale / s: sums exact, then two roundings to float32.

    weight: (rows, columns), columns < 2^17. scale: (rows,). q: (count, columns). s: (count, 1). y: (count, rows), written. Raises ValueError for other shapes.
    """

def normalize(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], add: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, eps: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
    """
    x += add; then the RMS norm of x, x / sqrt(mean(x^2) + eps) * weight, to out, to (q, s), or to both.

    x: (count, n), overwritten if add is given. add: (count, n), or None. weight: (n,), or None for no RMS norm. out: (count, n) float32, or None. q: (count, n) int8 and s: (count, 1), as of quantize_i8, or None both. group_columns: above 0, q and s are as of quantize_groups_i8. Raises ValueError for other shapes, or if there is no output.
    """

def gated(gate: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], up: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], activation: str, weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, eps: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
    """
    activation(gate) * up, then its RMS norm as in normalize, to out, to (q, s), or to both.

    gate, up: (count, n). activation: 'silu', 'relu2', 'gelu_tanh' or 'sigmoid'. weight: (n,), or None for no RMS norm. out: (count, n) float32, or None. q: (count, n) int8 and s: (count, 1), as of quantize_i8, or None both. group_columns: above 0, q and s are as of quantize_groups_i8. Raises ValueError for other shapes, or if there is no output.
    """

def rotate(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], block: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
    """
    H (factors * x) to out, to (q, s), or to both, where H is the Walsh-Hadamard matrix [(-1)^popcount(r & c)] on the diagonal blocks of a matrix.

    x: (count, n). factors: (n,). block: rows of H, a power of two from 16 on that divides n. out, q, s, group_columns: as of normalize; out may be x. Raises ValueError for other shapes, or if there is no output.
    """

def rotate_back(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], factors: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], block: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    factors * (H x) to out; with factors of magnitude block^-1/2, what undoes rotate.

    x, out: (count, n); out may be x. factors, block: as of rotate. Raises ValueError for other shapes.
    """

class DeltaWeights:
    """The weights of a gated delta net between its products."""

    def __init__(self, convolution: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], a: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], dt_bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """
        convolution: (taps, channels) float32, of the oldest row first. a, dt_bias: (value heads,); a is negative.
        """

class DeltaState:
    """What a gated delta net keeps of a sequence."""

    def __init__(self, rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], state: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')]) -> None:
        """
        Both zero before the first row. rows: (taps - 1, channels) float32, the last inputs of the convolution. state: (value heads, dv / 16 rounded up, dk, 16) float32.
        """

def delta_net(qkv: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], a: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], b: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], weights: DeltaWeights, state: DeltaState, convolved: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    Pass rows through a gated delta net, and update its state.

    qkv goes through the convolution and SiLU; queries and keys are divided by their L2 norms, queries also by sqrt(dk). Then, for each row and value head: S *= exp(a softplus(a_row + dt_bias)); e = sigmoid(b_row) (v - S^T k); S += k e^T; out = S^T q. Several value heads in a row share a query and a key head.

    qkv: (rows, channels): query heads, key heads, value heads. a, b: (rows, value heads), overwritten. convolved: scratch of the shape of qkv. out: (rows, value heads * dv), written. Raises ValueError for other shapes.
    """

def norm_gated(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], z: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], eps: float, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')] | None, group_columns: int = 0) -> None:
    """
    The RMS norm of each head of x, times weight and silu(z), to out, to (q, s), or to both.

    x, z: (count, n). weight: (d,), a divisor of n. eps: of the norm. Outputs are as of normalize. Raises ValueError for other shapes, or if there is no output.
    """

def add_low_rank(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], a: Sequence[Annotated[NDArray, dict(shape=(None, None), order='C', device='cpu', writable=False)]], b: Sequence[Annotated[NDArray, dict(shape=(None, None, None), order='C', device='cpu', writable=False)]], scales: Sequence[float], scratch: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], y: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]]) -> None:
    """
    y[i] += scales[i] * (x @ a[i].T) @ B[i].T, float32 sums.

    x: (count, columns). a: of each product (rank, columns). b: B (rows, rank) of each as (rows / 16 rounded up, rank, 16): tiles of 16 rows, the last padded with zeros. a and b are float32, float16, or bfloat16 as uint16. scratch: (count * the sum of all ranks,), overwritten. y: of each (count, rows). Raises ValueError for other shapes and dtypes.
    """

class Rope:
    """
    Rotary position embedding, norms of queries and keys, and the factor of scores.
    """

    def __init__(self, cos: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], sin: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], *, q_norm: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, k_norm: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, eps: float = 0.0, scale: float, norms_follow: bool = False) -> None:
        """
        cos, sin: (context, n), which rotate the first 2 n features of a head. q_norm, k_norm: (d,), the weights of RMS norms with eps, or None. scale: of q . k. norms_follow: norms apply to rotated q and k.
        """

class KVCache:
    """The KV cache of one layer."""

    @overload
    def __init__(self, keys: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], values: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu')]) -> None:
        """
        float32. keys: (key heads, blocks, d, 16), 16 positions side by side. values: (key heads, blocks * 16, d rounded up to a multiple of 16).
        """

    @overload
    def __init__(self, keys: Annotated[NDArray[numpy.uint16], dict(shape=(None, None, None, None), order='C', device='cpu')], values: Annotated[NDArray[numpy.uint16], dict(shape=(None, None, None), order='C', device='cpu')]) -> None:
        """The same in float16 bits."""

    @overload
    def __init__(self, keys: Annotated[NDArray[numpy.int8], dict(shape=(None, None, None, None), order='C', device='cpu')], values: Annotated[NDArray[numpy.int8], dict(shape=(None, None, None), order='C', device='cpu')], key_scales: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], value_scales: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """
        The same in int8, times the scale of the position and head. Scales: (key heads, blocks * 16) float32. Raises ValueError for scales of another shape.
        """

def attend(q: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu')], k: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu')], v: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], rope: Rope, cache: KVCache, start: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], window: int | None = None) -> None:
    """
    Attention of rows at positions start, start + 1, ... of one sequence.

    Normalizes and rotates q and k in place, writes k and v to the cache; then out[i] = softmax(scale q[i] . keys[: start + i + 1]) values[: start + i + 1] for each head.

    window: a row sees no more than so many positions, its own included; None: all. q: (rows, heads, d), d even. k, v: (rows, key heads, d). start: (1,) int64; a program reads it when it runs. out: (rows, heads * d), written. Raises ValueError for other shapes, and, when it runs, for rows beyond the cache or beyond cos and sin.
    """

class Dense:
    """A dense float matrix of an expert, as a file stores it."""

    @overload
    def __init__(self, weight: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> None:
        """weight: (rows, columns)."""

    @overload
    def __init__(self, weight: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu', writable=False)], is_bfloat16: bool) -> None:
        """weight: (rows, columns), bits of bfloat16 or float16."""

class Experts:
    """The experts of a layer."""

    def __init__(self, gate: Sequence[Ranked | Dense], up: Sequence[Ranked | Dense], down: Sequence[Ranked | Dense], activation: str, input: str, down_input: str, down_factors: numpy.typing.NDArray[numpy.float32] | None = None, down_block: int = 0) -> None:
        """
        gate, up: of each expert, (width, hidden). down: (hidden, width). activation: 'silu', 'relu2', 'gelu_tanh' or 'sigmoid'. input, down_input: what the indices among gate and up, and among down, multiply: 'float32', 'int8' or 'int8-group'; a Dense multiplies float32. down_factors, down_block: as of rotate, of the basis of down; None if it is the model's. Raises ValueError for other shapes, for groups of different columns, and for int8-group without an index.
        """

def route(logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], normalized: bool, chosen: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu')], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    The experts of each row with the largest softmax(logits), and these probabilities.

    logits: (count, experts). normalized: divide the probabilities of a row by their sum. chosen: (count, k), written, ascending; of equal logits the first is chosen. weights: (count, k), written, within (9 + largest - logit) 2^-24 of each. Raises ValueError for other shapes.
    """

def multiply_experts(experts: Experts, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)] | None, chosen: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], share: int, shares: int, y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    y[i] = sum over j of weights[i, j] * down(activation(gate(x[i])) * up(x[i])) of expert chosen[i, j], in ascending order of the experts.

    x: (count, hidden), float32, or None. q: int8, and s: (count, 1) or (count, groups), as quantize_i8 or quantize_groups_i8 returns them, or None. chosen, weights: (count, k), as of route. share: of `shares` equal ones, which are called in order. y: (count, hidden), complete after the last share. Raises ValueError for other shapes, and, when it runs, for an expert that does not exist.
    """

def set_digits_w16(words: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu')], word_columns: int, base: int, rows: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], blocks: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], digits: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], listed: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, occurrences: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')] | None = None) -> bool:
    """
    Give weights of an index in packing w16 other digits; of one weight the last one wins.

    words: (padded rows * word_columns,), written. rows, blocks, weights, digits: (count,), each digit, its row and column block, and its weight base^0 .. base^(k - 1) in the number of a pattern. listed: numbers of the listed patterns by rank; all changes of one row and block must then follow one another. occurrences: of each listed pattern, written. Returns False, having changed nothing, if a pattern would not be listed. The caller has checked all values. Raises ValueError for sizes that do not match.
    """

def set_digits_n4s1(bytes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], row_bytes: int, magnitudes: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], signs: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], places: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], blocks: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], digits: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
    """
    As set_digits_w16, in packing n4s1.

    bytes: (padded rows * row_bytes,), written. magnitudes, signs, places: (blocks of the matrix,), as n4s1_places of rsr_formats.packing returns them.
    """

@overload
def set_digits_permuted(permutation: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')], segments: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')], base: int, rows: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], blocks: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], digits: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
    """
    As set_digits_w16, of a permuted index: sorts the rows of each block that changes again.

    permutation: (blocks, rows), written. segments: (blocks, base^k + 1), written. rows, blocks: of the indexed matrix; all changes of one block must follow one another.
    """

@overload
def set_digits_permuted(permutation: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu')], segments: Annotated[NDArray[numpy.uint32], dict(shape=(None, None), order='C', device='cpu')], base: int, rows: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], blocks: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu', writable=False)], digits: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
    """The same for uint32."""

def quantize_i8(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')], s: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    For each row of x: s = 127 / max(max|x|, 1e-5), q = clip(round(x s), -128, 127), rounded half to even (BitNet b1.58).

    x: (count, n). q: (count, n), written. s: (count, 1), written; NaN for a row that is not finite. Raises ValueError for other shapes.
    """

def quantize_groups_i8(x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], group_columns: int, q: Annotated[NDArray[numpy.int8], dict(shape=(None, None), order='C', device='cpu')], steps: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    For each row of x and group of columns, with m its largest |x|: step = m / 127, q = round(x * (127 / m)), rounded half to even; both 0 where m < 2^-119.

    x: (count, n). group_columns: of a group; the last may have fewer. q: (count, n), written. steps: (count, groups), written; NaN for a group that is not finite. Raises ValueError for other shapes.
    """

def compiled_isas() -> list[str]:
    """Instruction sets of this build, widest first."""

def supported_isas() -> list[str]:
    """
    Instruction sets of this processor, widest first; the last is 'scalar'.
    """

def isa() -> str:
    """The instruction set in use."""

def use_isa(name: str) -> None:
    """
    Use the kernels of this instruction set. Raises ValueError for an unknown or unsupported name.
    """

def num_threads() -> int:
    """Threads of a product, at most."""

def set_num_threads(n: int) -> None:
    """Set num_threads(). Raises ValueError unless 1 <= n <= 1024."""

def nucleus(weights: numpy.typing.NDArray[numpy.float64], enough: float) -> tuple[float, int] | None:
    """
    Return (smallest, equal): the fewest largest weights whose sum is at least `enough` are those above `smallest` and the first `equal` of those equal to it. None where rounding could decide, or for a set that reaches far below the largest weight.

    weights: (n,), 0 to 1, the largest is 1.
    """

def draw(weights: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], smallest: float, equal: int, random: float) -> int:
    """
    Draw one of the weights above `smallest` and the first `equal` of those equal to it: the first at which their sum, in order, is above `random` times the whole sum, or is the whole sum.

    weights: (n,). random: 0 to below 1. Raises ValueError for 2^32 or more weights.
    """

class PrefetchDistances:
    """Bytes ahead of the index that is read."""

    def __init__(self, l2: int, l1: int) -> None: ...

    @property
    def l2(self) -> int: ...

    @l2.setter
    def l2(self, arg: int, /) -> None: ...

    @property
    def l1(self) -> int: ...

    @l1.setter
    def l1(self, arg: int, /) -> None: ...

class Threshold:
    """Vectors from which a batch kernel is used."""

    def __init__(self, isa: str, slot: str, min_vectors: int, max_k: int = 5) -> None: ...

    @property
    def isa(self) -> str: ...

    @property
    def slot(self) -> str: ...

    @property
    def min_vectors(self) -> int: ...

    @property
    def max_k(self) -> int: ...

class Tuning:
    """Constants that depend on the processor (tuning.h)."""

    def __init__(self, other: Tuning) -> None: ...

    @property
    def name(self) -> str: ...

    @name.setter
    def name(self, arg: str, /) -> None: ...

    @property
    def avx2(self) -> PrefetchDistances: ...

    @avx2.setter
    def avx2(self, arg: PrefetchDistances, /) -> None: ...

    @property
    def avx512(self) -> PrefetchDistances: ...

    @avx512.setter
    def avx512(self, arg: PrefetchDistances, /) -> None: ...

    @property
    def tables_in_registers(self) -> bool: ...

    @tables_in_registers.setter
    def tables_in_registers(self, arg: bool, /) -> None: ...

    @property
    def shifts(self) -> bool: ...

    @shifts.setter
    def shifts(self, arg: bool, /) -> None: ...

    @property
    def dense_in_order(self) -> bool: ...

    @dense_in_order.setter
    def dense_in_order(self, arg: bool, /) -> None: ...

    @property
    def thresholds(self) -> list[Threshold]: ...

    @thresholds.setter
    def thresholds(self, arg: Sequence[Threshold], /) -> None: ...

def tuning() -> Tuning:
    """The constants in use."""

def tuning_rows() -> list[Tuning]:
    """Those of each family of processors; the last is the default."""

def tuning_row(vendor: str, family: int) -> Tuning:
    """Those of a processor. vendor, family: as CPUID names them."""

def processor() -> tuple[str, int, int]:
    """Vendor, family and model of this processor, as CPUID names them."""

def thresholds() -> list[Threshold]:
    """Those of the batch kernels of the instruction set in use."""

def use_tuning(row: Tuning) -> None:
    """Use other constants. Only while no product runs."""

def plain_read(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> int:
    """
    Read every byte once, on one thread: the memory limit of a product. data: (bytes,). Returns a number that depends on each byte.
    """

def collapse_into_huge_pages(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> bool:
    """
    Have the system collect the pages of a mapped file into huge ones, for all processes. Returns whether it did.

    data: (bytes,), whole pages.
    """

def copy_into_huge_pages(data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], page: int) -> bool:
    """
    Replace part of a read-only mapping by a private copy of the same bytes at the same address, in huge pages if the system has any. Returns whether it did.

    data: (bytes,), whole pages of `page` bytes, the size of a huge page. Raises ValueError for other data.
    """
