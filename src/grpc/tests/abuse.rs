//! Hostile and broken clients.
