"""Where a column becomes numbers: a file for each kind of column, and the tensors they fill."""
