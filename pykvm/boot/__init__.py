"""Loaders: each reads one image format and returns an `Image`; none touches a vCPU."""
