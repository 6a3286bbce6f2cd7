//! Properties of compiled programs.
