"""The OpenVINO backend: models converted in process, kept on disk, run without torch.

`conversion` and `traced` need torch and sentence-transformers; everything else here needs openvino and numpy alone.
"""
