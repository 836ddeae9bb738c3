"""TF-Agents: environments and what acts in them."""

from models import frameworks

# TF-Agents imports TensorFlow by itself, and Keras 2 must be chosen before.
frameworks.prepare()
