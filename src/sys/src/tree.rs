//! Building a file tree below a directory fd: the primitives of layer extraction.
