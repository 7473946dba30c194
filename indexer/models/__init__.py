"""The only place that knows a model: decoding, OCR, CLIP, and the engine that runs them."""
