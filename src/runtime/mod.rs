//! The seam to the runtime: spawn, time, sockets, files with aligned durable writes, the way between cores. glommio is
//! its implementation; no type of it appears outside this folder.

use std::{future::Future, time::Duration};

/// Runs a future on this executor; it goes on by itself.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Lets everything else that is ready run first.
pub async fn yield_now() {
    glommio::executor().yield_task_queue_now().await;
}

/// Runs something that may block on a low-priority thread of its own.
pub async fn background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}

/// Milliseconds since the process first asked, never going back.
pub fn now_ms() -> u64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_millis() as u64
}

/// Runs a test's future to its end on an executor of its own.
#[cfg(test)]
pub fn run_test<T>(future: impl Future<Output = T>) -> T {
    let executor = glommio::LocalExecutorBuilder::default().io_memory(1 << 20).make().expect("io_uring is there");
    executor.run(future)
}
