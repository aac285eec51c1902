"""Results of the landscape lens: lines, planes, basins and distances."""
