"""safetensors files by byte range: header (bytes ↔ dataclass), reader, writer, index."""
