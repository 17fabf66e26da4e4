//! What the process tells of itself: log lines, metrics and traces. Anything may call it from any thread; it calls nothing back
//! and holds nothing up.

pub mod log;
pub mod metrics;
pub mod trace;
