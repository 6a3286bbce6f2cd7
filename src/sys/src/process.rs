//! clone3 and the operations a cloned child may perform before exec.
