//! The raft core: orders proposals, logs them, applies what is committed and publishes the result.
pub mod bootstrap;
pub mod compactor;
pub mod core;
pub mod database;
pub mod driver;
pub mod identity;
pub mod install;
pub mod log;
pub mod mail;
pub mod member;
pub mod scrub;
pub mod segments;
pub mod sending;
pub mod space;
pub mod start;
pub mod translate;
pub mod view;
