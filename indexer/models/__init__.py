"""The only place that knows a model: decoding, OCR, CLIP, and the engine that runs them."""

import os
import sys

# Nothing is told about those who run this. OpenVINO tells Intel of every import and conversion
# unless the package that does so can't be imported; ONNX Runtime tells Microsoft unless this is set
# before it is imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
