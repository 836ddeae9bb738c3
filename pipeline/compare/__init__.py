"""Algorithms, backbones and seeds on one data set: trained, measured, compared in pairs."""
