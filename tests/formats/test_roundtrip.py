"""Any file that is written is read back equal, aligned and valid."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_formats import DenseTensor, IndexedTensor, RsrFile, RsrWriter, create
from rsr_formats.decode import decode_digits
from rsr_formats.packing import (
    Block,
    block_from_ranks,
    pack_n4s1,
    pack_w16,
    padding_digit,
    ranks_from_block,
    ranks_of,
    unpack_n4s1,
    unpack_w16,
)
from rsr_formats.records import (
    DIGITS,
    DTYPE_BITS,
    NUMPY_DTYPES,
    AuxiliaryTensor,
    FileEntry,
    Scale,
    SourceRecord,
    Tensor,
    dense_nbytes,
)

Array = npt.NDArray[Any]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.lists(text.filter(bool), unique=True, min_size=4, max_size=4)
levels = st.none() | st.integers(1, 5)
plain = st.text("abc._- é", min_size=1, max_size=8).filter(lambda s: s not in (".", ".."))


class Plan:
    """Draws tensors and writes their sections; keeps the expected contents."""

    def __init__(self, data: st.DataObject, writer: RsrWriter) -> None:
        self.draw, self.writer = data.draw, writer
        self.contents: list[bytes] = []
        self.ranks: dict[str, Array] = {}
        self.digits: dict[str, Array] = {}
        self.scales: dict[str, Array] = {}

    def add(self, data: bytes) -> int:
        cut = self.draw(st.integers(0, len(data)))
        self.contents.append(data)
        return self.writer.add([data[:cut], memoryview(data)[cut:]], self.draw(levels))

    def dense(self, name: str) -> DenseTensor:
        dtype = self.draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = tuple(self.draw(st.lists(st.integers(0, 5), max_size=4)))
        size = dense_nbytes(dtype, shape)
        return DenseTensor(
            name, dtype, shape, self.add(self.draw(st.binary(min_size=size, max_size=size)))
        )

    def indexed(self, name: str, auxiliary: str) -> IndexedTensor:
        draw = self.draw
        ranked = draw(st.booleans())
        packing = "w16" if ranked else "u16"
        digits = draw(st.sampled_from(DIGITS))
        k = draw(st.integers(1, {2: 5, 3: 3}.get(len(digits), 2) if ranked else 6))
        out, columns = draw(st.integers(0, 200)), draw(st.integers(0, 40))
        direction = "expand" if ranked else draw(st.sampled_from(["expand", "reduce"]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        A = rng.integers(0, len(digits), (out, columns)).astype(np.uint8)
        A = A if direction == "expand" else A.T
        pad = padding_digit(digits)
        group = None  # columns per group; None: no groups
        if ranked and columns > 1 and draw(st.booleans()):
            group = draw(st.integers(1, columns - 1))
        width = group or max(1, A.shape[1])
        parts_of_A = [A[:, c : c + width] for c in range(0, max(1, A.shape[1]), width)]
        ranks = np.concatenate([ranks_of(part, len(digits), k, pad) for part in parts_of_A])
        self.ranks[name] = ranks
        self.digits[name] = A if direction == "expand" else A.T
        if ranked:
            pad_rank = int(ranks_of(np.full((1, k), pad, np.uint8), len(digits), k, pad)[0, 0])
            parts = {"ranks": pack_w16(ranks, pad_rank).astype("<u2").tobytes()}
            if len(digits) == 3 == k and draw(st.booleans()):
                packed = pack_n4s1(ranks, None if group is None else -(-group // k))
                packing, parts = "n4s1", {"ranks": packed.tobytes()}
        else:
            blocks = [block_from_ranks(r, len(digits) ** k) for r in ranks]
            parts = {
                "permutation": b"".join(b.permutation.astype("<u2").tobytes() for b in blocks),
                "segments": b"".join(b.segments.astype("<u2").tobytes() for b in blocks),
            }
        layout, dtype = draw(
            st.sampled_from([("float", "BF16"), ("int8", "I8"), ("absmean", "F32")])
        )
        zeros = np.array(digits)[A] == 0
        negative = None
        if layout == "float" and 0 in digits and draw(st.booleans()):
            bits = rng.integers(0, 2, zeros.sum()).astype(np.uint8)
            negative = self.add(np.packbits(bits, bitorder="little").tobytes())
        scale = None
        if group is not None or draw(st.booleans()):
            rows = draw(st.integers(1, out + 5) | st.just((1 << 31) - 1))
            item = draw(st.sampled_from(["F16", "F32"]))
            count = -(-out // rows) * (1 if group is None else -(-columns // group))
            values = rng.random(count).astype(NUMPY_DTYPES[item])
            scale = Scale(rows, self.add(values.tobytes()), group, item)
            self.scales[name] = values
        inline = AuxiliaryTensor(auxiliary, "F32", (), draw(st.binary(min_size=4, max_size=4)))
        return IndexedTensor(
            name, (out, columns), digits, k, direction,
            "ranked" if ranked else "permuted", packing,
            sections={part: self.add(data) for part, data in parts.items()},
            source=SourceRecord(
                layout, dtype, (out, columns), negative, (inline,) * draw(st.integers(0, 1))
            ),
            scale=scale,
        )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_written_file_is_read_back(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.rsr"
        with create(path) as writer:
            plan = Plan(data, writer)
            name = data.draw(names)
            tensors: list[Tensor] = [plan.indexed(name[0], name[1]), plan.dense(name[2])]
            if data.draw(st.booleans()):
                tensors.reverse()
            files = [
                FileEntry(n, plan.add(data.draw(st.binary(max_size=50))))
                for n in data.draw(st.lists(plain, unique=True, max_size=2))
            ]
            written = writer.finish(
                producer=data.draw(text),
                metadata=data.draw(st.dictionaries(text, text, max_size=3)),
                files=files,
                tensors=tensors,
            )
        file = RsrFile(path)
        file.verify()
        assert file.header == written
        (indexed,) = (t for t in tensors if isinstance(t, IndexedTensor))
        scale = indexed.scale or Scale(1, 0)
        is_n4s1, has_groups = indexed.packing == "n4s1", scale.columns is not None
        newer = is_n4s1 or has_groups or scale.dtype != "F32"
        minor = 5 if indexed.base > 3 else 4 if is_n4s1 and has_groups else int(newer)
        assert file.version == (1, minor)
        assert all(s.offset % 4096 == 0 for s in written.sections)
        assert [file.section(i).tobytes() for i in range(len(plan.contents))] == plan.contents
        for t in file.header.tensors:
            if isinstance(t, DenseTensor):
                continue
            arrays = file.index_arrays(t)
            np.testing.assert_array_equal(decode_digits(t, arrays), plan.digits[t.name])
            assert arrays["scale"].tobytes() == plan.scales.get(t.name, np.ones(1, "<f4")).tobytes()
            for j, expected in enumerate(plan.ranks[t.name]):
                if t.encoding == "ranked":
                    place = arrays["ranks"], t.rows, t.blocks, j
                    ranks = (
                        unpack_n4s1(*place, t.unit_blocks)
                        if t.packing == "n4s1"
                        else unpack_w16(*place)
                    )
                else:
                    block = Block(arrays["permutation"][j], arrays["segments"][j])
                    ranks = ranks_from_block(block)
                np.testing.assert_array_equal(ranks, expected)
