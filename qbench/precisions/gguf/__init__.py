"""GGUF: llama.cpp's block formats, made of a model in memory or read from a file."""
