"""Kernel that turns integer sums of products into correlations."""

# numba infers the types of a kernel's arguments; annotations would not be read.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from vaesc.sparse._jit import compiled


@compiled
def combine_digits(sums, units, offset, out):
    """Set `out` (b, K) to the sum over digits of unit times sum, plus each atom's offset.

    Args:
        sums: Whole numbers, shape (b, digits * K), digit by digit.
        units: Value of one in each digit.
        offset: Added to each column, shape (K,).
        out: Result, float32.
    """
    n_atoms = out.shape[1]
    # In double precision, which is exact here: a black image must give zero.
    for row in range(out.shape[0]):
        if units.shape[0] == 2:
            for j in range(n_atoms):
                out[row, j] = (
                    offset[j] + units[0] * sums[row, j] + units[1] * sums[row, n_atoms + j]
                )
        else:
            for j in range(n_atoms):
                out[row, j] = (
                    offset[j] + units[0] * sums[row, j] + units[1] * sums[row, n_atoms + j]
                    + units[2] * sums[row, 2 * n_atoms + j]
                )  # fmt: skip
