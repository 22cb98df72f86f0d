"""Where arrays are: devices, meshes, processes."""
