"""The kernels: each variant is a micro-kernel and a range kernel over jobs; see dispatch.py."""
