"""A model without Python: see :mod:`vaesc.export.files`."""

from vaesc.export.files import OPSET, SIDECAR, check_export, export_onnx

__all__ = ["OPSET", "SIDECAR", "check_export", "export_onnx"]
