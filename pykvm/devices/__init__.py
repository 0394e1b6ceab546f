"""Devices: each in a module of its own, each register declared once; none knows its address or another device."""
