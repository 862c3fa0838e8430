"""How a unit of records becomes the bytes of one object: a zarr shard or a tar."""
