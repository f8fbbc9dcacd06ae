"""Reading `.tflite` files: what is in them, and how fast they run."""
