"""Accelerators: each runs vCPUs in its own way behind one contract, `pykvm.model.seams.Vcpu`."""
