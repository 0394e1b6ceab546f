"""Only what pyproject.toml cannot say: which module cffi compiles."""

from setuptools import setup

setup(cffi_modules=["pykvm/_kvm/build.py:ffibuilder"])
