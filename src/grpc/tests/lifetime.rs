//! Deadlines, cancels, drain, keepalive.
