//! Unix sockets: framing helpers, descriptor passing, peer credentials.
