//! The raft core: orders proposals, logs them, applies what is committed and publishes the result.
pub mod bootstrap;
pub mod identity;
pub mod log;
pub mod translate;
