"""Models -> folders that an exported backend runs.

write      every part at every size, then the manifest      manifest   what a folder holds
onnx       ONNX files                                        aoti       torch's ahead-of-time packages
tensorrt   the engines beside ONNX files
"""
