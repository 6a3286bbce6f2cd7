//! Namespaces: create, join, pin, enter on a thread of its own.
